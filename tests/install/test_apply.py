"""What root writes where a service may write, too; and an installation that breaks off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orion_streams.cli.install import apply as installing
from orion_streams.cli.install.apply import Target, apply, locked
from orion_streams.cli.install.plan import PASSWORDS, ROLES, File, Plan, plan_of
from tests.helpers import WAIT_S
from tests.install.houses import machine, wish

AS_ROOT = os.geteuid() == 0
SERVICE = 4_242
USERS = File("/var/lib/orion-server/users.acl", "user default off\n", 0o640, "orion-server", secret=True)


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A machine on which the folder of a service is its own."""
    root = machine(tmp_path)
    with (root / "etc/passwd").open("a") as users:
        users.write(f"orion-server:x:{SERVICE}:{SERVICE}::/:/bin/false\n")
    (root / "var/lib/orion-server").mkdir(parents=True)
    (root / "etc/shadow").write_text("root's")
    (root / "etc/shadow").chmod(0o600)
    return Target(str(root), dry=False, say=lambda _: None)


def shadow(target: Target) -> tuple[int, int, str]:
    """Owner, mode and text of what no service may have."""
    path = target.path("/etc/shadow")
    return path.stat().st_uid, path.stat().st_mode & 0o777, path.read_text()


@pytest.mark.everything(where=AS_ROOT)
@pytest.mark.parametrize("call", ["fsync", "fchown", "fchmod"])
def test_a_service_that_swaps_the_file_gets_nothing_of_root_s(
    target: Target, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before any step that gives it away, the service puts a link to another file in its place."""
    before, real = shadow(target), getattr(os, call)
    fresh = target.path("/var/lib/orion-server/.users.acl.new")
    swapped = []

    def swap(*words: int) -> None:
        fresh.unlink()
        fresh.symlink_to(target.path("/etc/shadow"))
        swapped.append(call)
        real(*words)

    monkeypatch.setattr(os, call, swap)
    assert target.file(USERS)
    assert swapped == [call]
    assert shadow(target) == before


@pytest.mark.everything(where=AS_ROOT)
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_replaced(target: Target) -> None:
    """It is neither followed nor waited for."""
    before, path = shadow(target), target.path(USERS.path)
    path.symlink_to(target.path("/etc/shadow"))
    assert target.read_own(USERS.path) == ""
    assert target.file(USERS)
    path.unlink()
    os.mkfifo(path)
    assert target.read_own(USERS.path) == ""
    assert target.file(USERS)
    assert shadow(target) == before
    assert (path.read_text(), path.stat().st_mode & 0o777, path.stat().st_uid) == (
        USERS.text,
        0o640,
        SERVICE,
    )
    assert not target.file(USERS)


class Recorded(Target):
    """A folder that counts as the machine: what would be run is noted, and breaks off where told."""

    def __init__(self, root: Path, breaks: str = "none") -> None:
        super().__init__(str(root), dry=False, say=lambda _: None)
        self.is_machine, self.breaks, self.ran = True, breaks, list[str]()

    def run(self, *words: str) -> None:
        """Only note it."""
        self._changes()
        line = " ".join(words)
        if self.breaks in line:
            raise KeyboardInterrupt
        self.ran.append(line)


def installed(root: Path, plan: Plan, breaks: str = "none", venv: bool = False) -> list[str]:
    """The commands of systemctl that an installation runs, with a program that is new or not."""
    target = Recorded(root, breaks)
    target.begin(each.unit for each in plan.services)
    if venv:
        target.run("pip")
    apply(plan, target, venv)
    return [line for line in target.ran if line.startswith("systemctl")]


RESTART = "systemctl restart --no-block orion-router.service orion-gateway.service"


@pytest.mark.everything(where=AS_ROOT)
@pytest.mark.parametrize("breaks", ["daemon-reload", "pip", "restart"])
def test_what_broke_off_is_restarted_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    """Though that one changes nothing by itself; and the one after that has nothing to do."""
    monkeypatch.setattr(installing, "is_active", lambda _: True)
    root = machine(tmp_path)
    with (root / "etc/passwd").open("a") as users:
        users.writelines(f"orion-{role}:x:{SERVICE}:{SERVICE}::/:/bin/false\n" for role in ROLES)
    before = plan_of(wish(roles=("router", "gateway"), server=None))
    installed(root, before)
    after = plan_of(wish(roles=("router", "gateway"), server=None, url="redis://192.168.1.11:6379/0"))
    after = before if breaks == "pip" else after
    with pytest.raises(KeyboardInterrupt):
        installed(root, after, breaks, venv=True)
    installed(root, plan_of(wish(roles=("alerts",), server=None)))  # another role, which settles nothing
    words = installed(root, after)
    assert RESTART in words and "systemctl daemon-reload" in words
    assert not [each for each in installed(root, after) if "enable" not in each]
    assert not (root / "etc/orion/.restart").exists()


def test_two_at_once_change_one_after_the_other(target: Target) -> None:
    """Whoever comes second says what it waits for; a look waits for nobody, and no file is left of it."""
    target.path(PASSWORDS).mkdir(parents=True, mode=0o700)
    script = (
        "import sys; from orion_streams.cli.install.apply import Target, locked\n"
        "with locked(Target(sys.argv[1], dry='dry' in sys.argv, say=print)): print('in', flush=True)"
    )
    words = [sys.executable, "-c", script, str(target.root)]
    before = sorted(target.root.rglob("*"))
    with locked(target):
        look = subprocess.run([*words, "dry"], capture_output=True, text=True, check=True, timeout=WAIT_S)
        second = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert second.stderr is not None
        assert "is at work here: waiting" in second.stderr.readline()
        assert (look.stdout, second.poll()) == ("in\n", None)
    out, _ = second.communicate(timeout=WAIT_S)
    assert (out, second.returncode, sorted(target.root.rglob("*"))) == ("in\n", 0, before)
