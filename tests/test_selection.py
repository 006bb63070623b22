"""What `./orion test` runs, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INI = "[pytest]\nmarkers = everything\nasyncio_default_fixture_loop_scope = function\n"
SUITE = '''
import pytest
from hypothesis import given, strategies as st

@given(st.integers())
def test_law(number):
    """Numbers are small."""
    assert number < 100

@pytest.mark.parametrize("room", ["a b", "c", "d"])
def test_room(room):
    """Rooms
    have no name."""
    assert not room

def test_here():
    """Not everywhere."""
    pytest.importorskip("a_module_that_is_nowhere")

@pytest.mark.everything
def test_long():
    """Takes long."""

@pytest.mark.everything(False)
def test_never():
    """Cannot run here."""
'''


def run(folder: Path, *words: str, path: str = "") -> tuple[int, list[str]]:
    """Run that suite: pytest's exit code and the lines it wrote."""
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text(INI)
    command = [sys.executable, "-m", "pytest", "-p", "tests.selection", "-p", "no:cacheprovider", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **({"PATH": path} if path else {})}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_a_failure_ends_with_how_to_see_it_again(tmp_path: Path) -> None:
    """The last ten lines say what should hold, what was seen, and the command with its seed; what is
    skipped has failed."""
    code, lines = run(tmp_path, "-q", "--hypothesis-seed=7")
    assert code == 1
    assert lines[-11].startswith("5 failed, 2 deselected")
    assert lines[-10:-4] == [
        "broken: Numbers are small.",
        "seen: assert 100 < 100",
        "./orion test test_suite.py::test_law --hypothesis-seed=7",
        "broken: Rooms have no name.",
        "seen: AssertionError: assert not 'a b'",
        "./orion test 'test_suite.py::test_room[a b]'",
    ]
    assert lines[-1] == "and 2 more, listed above"


def test_what_takes_long_runs_when_it_is_named(tmp_path: Path) -> None:
    """A name runs what --all runs, but nothing that cannot run here."""
    assert run(tmp_path, "test_suite.py::test_long")[0] == 0
    assert run(tmp_path, "test_suite.py::test_never")[0] == 5


def test_all_says_what_to_install(tmp_path: Path) -> None:
    """Where something is missing, one line has the command, and no test runs."""
    code, lines = run(tmp_path, "--all", path=str(tmp_path))
    assert code == 78
    assert [line for line in lines if line] == lines[-1:]
    assert "sudo apt install chromium iproute2 " in lines[-1]
    assert lines[-1].endswith("openssl redis-server")
