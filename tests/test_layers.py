"""The import contract holds, and it would notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.run_cli import ROOT


def lint(folder: Path) -> tuple[int, str]:
    """The exit code and the words of import-linter there."""
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(words, cwd=folder, env={"PATH": ""}, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their contract, to be spoilt."""
    for name in ("orion_streams", "agents", "projections"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "streams.toml", tmp_path)
    return tmp_path


def test_the_contract_holds(copy: Path) -> None:
    """No import goes the wrong way, and the pure core imports nothing of the world."""
    code, said = lint(copy)
    assert code == 0, said
    assert "4 kept, 0 broken" in said


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("orion_streams/decider/route.py", "import time"),
        ("orion_streams/decider/decide.py", "import random"),
        ("projections/nodes.py", "from redis.asyncio import Redis"),
        ("orion_streams/model/state.py", "from orion_streams.runtime import connection"),
        ("orion_streams/protocol/emit.py", "from orion_streams import config"),
        ("orion_streams/model/policy.py", "from pathlib import Path"),
        ("orion_streams/eventlog/redis_log.py", "from orion_streams.agents import router"),
        ("agents/worker.py", "from orion_streams.cli import grid_discovery"),
        ("agents/worker.py", "from orion_streams.demo import simulated_grid"),
        ("orion_streams/demo/simulated_grid.py", "from orion_streams.cli import grid_discovery"),
        ("orion_streams/cli/options.py", "from tests.chaos import chaos_command"),
    ],
)
def test_a_forbidden_import_is_caught(copy: Path, module: str, line: str) -> None:
    """One import the wrong way breaks the contract, and the message names the module."""
    path = copy / module
    path.write_text(path.read_text() + f"\n{line}\n")
    code, said = lint(copy)
    assert code == 1, said
    name = module.removesuffix(".py").removeprefix("orion_streams/").replace("/", ".")
    assert f"orion_streams.{name}" in said


def test_a_new_module_has_to_find_its_layer(copy: Path) -> None:
    """A module that no layer names breaks the contract."""
    (copy / "orion_streams" / "novelty.py").write_text('"""Something new."""\n')
    code, said = lint(copy)
    assert code == 1
    assert "novelty" in said


@pytest.mark.parametrize(
    "line",
    [
        "from orion_streams.replay import whatif",
        "def hidden():\n    from orion_streams.replay import whatif",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from orion_streams.replay import whatif",
    ],
    ids=["plain", "in a function", "for types only"],
)
def test_a_circle_is_caught_wherever_it_hides(copy: Path, line: str) -> None:
    """Two modules of one package that import each other break the contract."""
    path = copy / "orion_streams" / "replay" / "verify.py"
    path.write_text(path.read_text() + f"\n{line}\n")
    code, said = lint(copy)
    assert code == 1, said
    assert "No cycles are allowed in orion_streams.replay" in said
