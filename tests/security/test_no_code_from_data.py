"""Nothing that is read can become code: no pickle and its like, no eval, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
    "code",
}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput")}


def sources() -> list[Path]:
    """Every module of the product, each once: two folders are also there as symlinks."""
    found = {
        path.resolve()
        for folder in ("orion_streams", "agents", "projections")
        for path in (ROOT / folder).rglob("*.py")
    }
    return sorted(found)


def dangers(text: str) -> Iterator[str]:
    """What of a module could run data."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield name
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in ATTRIBUTES:
                yield f"{owner}.{name}"
            case ast.keyword(arg="shell", value=ast.Constant(value=False)):
                continue
            case ast.keyword(arg="shell"):
                yield "shell="
            case ast.Constant(value="pickle" | "yaml"):  # Faust's serializers go by name
                yield "a serializer"


def test_no_module_can_run_what_it_reads() -> None:
    """Of all modules of the product, none."""
    found = {
        str(path.relative_to(ROOT)): list(dangers(path.read_text(encoding="utf-8"))) for path in sources()
    }
    assert len(found) > 80
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import marshal as m",
        "from yaml import safe_load",
        "import os, shelve",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "faust.App('x', value_serializer='pickle')",
    ],
)
def test_each_danger_would_be_seen(line: str) -> None:
    """Negative control: one such line in a module is found."""
    assert list(dangers(f"def work():\n    {line}\n"))
