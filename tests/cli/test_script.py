"""`./orion`, with stand-ins for Python, pip and the program: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.run_cli import ROOT
from tests.helpers import WAIT_S, eventually_true

TOOLS = "sh readlink dirname cat cksum mkdir rmdir rm mv sleep ln touch grep chmod chown"
SHELLS = [words for words in (["sh"], ["dash"], ["busybox", "ash"], ["bash"]) if shutil.which(words[0])]

PYTHON = """\
#!/bin/sh
# a Python that can only make a venv, whose pip counts its installations
case "$1 $2" in
"-c import sys"*) exit ${OLD_PYTHON:-0} ;;
"-c import ensurepip"*) exit ${NO_VENV:-0} ;;
"-m venv")
    mkdir -p "$3/bin" && ln -sf "$0" "$3/bin/python" && touch "$3/bin/pip"
    printf '#!/bin/sh\\necho "ran $*"\\necho $$\\n[ "$1" != wait ] || exec sleep 60\\n' >"$3/bin/orion"
    chmod +x "$3/bin/pip" "$3/bin/orion" ;;
"-m pip")
    echo "$*" >>"$PIP_LOG"
    sleep "${PIP_TAKES:-0}"
    exit ${PIP_FAILS:-0} ;;
esac
"""


class Checkout:
    """A folder with the script, in a path with spaces, and a PATH with the tools that it may use."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "a checkout", folder / "bin"
        self.root.mkdir()
        self.bin.mkdir()
        self.script = Path(shutil.copy(ROOT / "orion", self.root))
        shutil.copy(ROOT / "pyproject.toml", self.root)
        for name in TOOLS.split():
            (self.bin / name).symlink_to(str(shutil.which(name)))
        python = self.bin / "python3"
        python.write_text(PYTHON)
        python.chmod(0o755)
        self.pip_log = folder / "pip.log"
        self.pip_log.touch()

    @property
    def installs(self) -> list[str]:
        """What pip was asked for, run by run."""
        return [line.rpartition("-e ")[2] for line in self.pip_log.read_text().splitlines()]

    def start(self, *words: str, script: Path | None = None, **env: str) -> subprocess.Popen[str]:
        """Start the script from another folder."""
        return subprocess.Popen(
            [str(script or self.script), *words],
            cwd=self.bin,
            env={"PATH": str(self.bin), "PIP_LOG": str(self.pip_log), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, script: Path | None = None, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*words, script=script, **env)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh one."""
    return Checkout(tmp_path)


def test_the_first_run_sets_up_and_the_next_ones_do_not(checkout: Checkout) -> None:
    """Once installed, the program runs at once; set-up speaks one line, on stderr only."""
    code, out, err = checkout.run("nodes", "--json")
    assert (code, out.splitlines()[0]) == (0, "ran nodes --json")
    assert err.count("\n") == 1
    assert "a minute" in err
    assert checkout.run("two words")[2] == ""
    assert checkout.installs == [f"{checkout.root}[dev]"]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_shell_takes_it(checkout: Checkout, shell: list[str]) -> None:
    """The script is plain POSIX."""
    env = {"PATH": str(checkout.bin), "PIP_LOG": str(checkout.pip_log)}
    words = [str(shutil.which(shell[0])), *shell[1:], str(checkout.script), "x"]
    for _ in range(2):
        ended = subprocess.run(words, env=env, capture_output=True, text=True, timeout=WAIT_S, check=True)
        assert ended.stdout.splitlines()[0] == "ran x"
    assert len(checkout.installs) == 1


def test_it_works_through_a_symlink(checkout: Checkout) -> None:
    """Started through a link elsewhere, it finds its checkout."""
    link = checkout.bin / "orion"
    link.symlink_to(checkout.script)
    assert checkout.run("x", script=link)[0] == 0
    assert (checkout.root / ".venv").is_dir()


def test_a_change_of_the_packages_installs_again(checkout: Checkout) -> None:
    """Another pyproject.toml is another installation, into the same venv."""
    checkout.run("x")
    kept = checkout.root / ".venv" / "kept"
    kept.touch()
    with (checkout.root / "pyproject.toml").open("a") as pyproject:
        pyproject.write("# changed\n")
    assert checkout.run("x")[0] == 0
    assert len(checkout.installs) == 2
    assert kept.exists()


def test_a_moved_checkout_is_set_up_afresh(checkout: Checkout, tmp_path: Path) -> None:
    """A venv knows its own place: elsewhere it is made anew."""
    checkout.run("x")
    (checkout.root / ".venv" / "kept").touch()
    moved = tmp_path / "moved"
    checkout.root.rename(moved)
    assert checkout.run("x", script=moved / "orion")[0] == 0
    assert not (moved / ".venv" / "kept").exists()


def test_a_half_done_installation_is_redone(checkout: Checkout) -> None:
    """A failure says so, exits 1, and the next run begins afresh."""
    code, out, err = checkout.run("x", PIP_FAILS="1")
    assert (code, out) == (1, "")
    assert "the installation failed" in err
    (checkout.root / ".venv" / "half").touch()
    assert checkout.run("x")[0] == 0
    assert not (checkout.root / ".venv" / "half").exists()
    assert not (checkout.root / ".venv.lock").exists()


def test_two_at_once_install_once(checkout: Checkout) -> None:
    """The second waits for the first, and then has nothing to do."""
    both = [checkout.start("x", PIP_TAKES="1") for _ in range(2)]
    ends = [each.communicate(timeout=WAIT_S) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert len(checkout.installs) == 1
    assert any("waiting for another set-up" in err for _, err in ends)


def test_a_dead_owners_lock_is_cleared(checkout: Checkout) -> None:
    """A set-up that was killed does not hold up the next one."""
    killed = checkout.start("x", PIP_TAKES="60")
    eventually_true(lambda: checkout.installs != [], "the installation")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert (checkout.root / ".venv.lock" / "owner").exists()
    code, _, _ = checkout.run("x")
    assert code == 0
    assert len(checkout.installs) == 2
    assert not (checkout.root / ".venv.lock").exists()


def test_a_signal_reaches_the_program(checkout: Checkout) -> None:
    """The script has become the program: the same process id, so a signal ends the program itself."""
    checkout.run("x")
    process = checkout.start("wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "ran wait\n"
    assert int(process.stdout.readline()) == process.pid
    process.terminate()
    assert process.wait(timeout=WAIT_S) == -signal.SIGTERM
    process.communicate()


def test_the_real_model_is_installed_on_demand(checkout: Checkout) -> None:
    """`demo --real` adds the extra once; other commands never ask for it, nor lose it."""
    for words in (
        ("demo",),
        ("demo", "--real"),
        ("demo", "--json", "--real"),
        ("ask", "--real"),
        ("demo",),
    ):
        assert checkout.run(*words)[0] == 0
    assert checkout.installs == [f"{checkout.root}[dev]", f"{checkout.root}[dev,real]"]


@pytest.mark.parametrize(
    ("trouble", "mend"),
    [
        (
            "OLD_PYTHON",
            "Python 3.11 or newer is needed and none was found: sudo apt install python3",
        ),
        ("NO_VENV", "Python's venv module is missing: sudo apt install python3-venv"),
    ],
)
def test_what_is_missing_is_named(checkout: Checkout, trouble: str, mend: str) -> None:
    """Without a fitting Python or its venv module: one line with what to install, exit 1."""
    code, out, err = checkout.run("x", script=None, **{trouble: "1"})
    assert (code, out) == (1, "")
    assert mend in err.splitlines()[-1]
    assert not (checkout.root / ".venv.lock").exists()
