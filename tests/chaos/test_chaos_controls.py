"""Negative controls: the same chaos on a copy of the product without one of its guards names what broke."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec import Struct

import orion_streams
from tests.chaos.test_chaos import chaos
from tests.cli.run_cli import ROOT


class Guard(Struct, frozen=True):
    """A part of a file, what stands there instead, the faults that show it, and the broken promises."""

    file: str
    part: str
    instead: str
    faults: tuple[str, ...]
    broken: tuple[str, ...]


GUARDS = {
    "done only": Guard(
        "agents/worker.py",
        'raise RunFailedError("no_done", "node", "Ollama ended without `done`", True)',
        "answer.usage = Usage(); break",
        ("ollama_no_done",),
        ("half_answers",),
    ),
    "known ids": Guard(
        "protocol/ingest.py",
        "if key in grid.open or grid.find_closed(key) is not None:",
        "if False:",
        ("lose_answers", "cut_connections"),
        ("duplicate_dispatches", "duplicate_replies"),
    ),
    "cursor in the commit": Guard(
        "eventlog/commit.lua",
        "if #set > 0 then redis.call('HSET', guard, unpack(set)) end",
        "",
        ("kill_both_routers", "poison"),
        ("unrefused_poison", "glued_halves"),
    ),
}


def copy_without(guard: Guard, home: Path) -> None:
    """The package in `home`, where a process that starts there finds it first, without the guard."""
    package = home / "orion_streams"
    shutil.copytree(
        Path(orion_streams.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("tests", "pyproject.toml"):
        (home / name).symlink_to(ROOT / name)
    file = package / guard.file
    text = file.read_text()
    assert guard.part in text, f"{guard.file} has no {guard.part!r}"
    file.write_text(text.replace(guard.part, guard.instead))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_that_is_missing_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: each guard is needed. Without it the same run exits 1 and says which promise broke."""
    guard = GUARDS[name]
    copy_without(guard, tmp_path)
    monkeypatch.setattr("tests.cli.run_cli.ROOT", tmp_path)
    only = [word for fault in guard.faults for word in ("--only", fault)]
    code, told, said = chaos(tmp_path, "--minutes", "0.15", "--server", "valkey", *only)
    assert code == 1, said
    named = {line.split(": ")[1] for line in told["broken"]}
    assert named & set(guard.broken), told["broken"]
