"""`orion join` against a server that is simulated: what it takes, writes and hands on."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from orion_streams.cli.install import install_command, join_command, venv
from orion_streams.cli.install.install_command import InstallOptions
from orion_streams.cli.install.invitation import Invitation, Ticket, encode
from orion_streams.cli.install.join_command import JoinOptions
from orion_streams.errors import ConfigError
from tests.helpers import WAIT_S
from tests.install.houses import TOML, machine

AS_ROOT = os.geteuid() == 0 and shutil.which("systemd-sysusers") is not None
TICKET = Ticket("orion-worker", "redis://192.168.1.10:6379/0", "k", "u", "once", 1_800_000_000_000)
CODE = encode(TICKET)
Join = Callable[..., Path]


@pytest.fixture
def join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Join:
    """Paste the code on a machine of its own; the folder that stands for it."""
    root = machine(tmp_path / "worker")

    def pasted(**changes: Any) -> Path:
        waits = {"node": TICKET.node, "password": "secret", "toml": TOML, **changes}
        answers = {"PING": b"PONG", "GETDEL": msgspec.json.encode(waits)}
        monkeypatch.setattr(join_command, "ask", lambda _, word, *__: answers[word])
        monkeypatch.setattr(sys, "stdin", io.StringIO(CODE))
        join_command.run(options=JoinOptions(root=str(root)), as_json=True)
        return root

    return pasted


@pytest.mark.everything(where=AS_ROOT)
def test_no_server_names_a_file_on_the_new_machine(join: Join, tmp_path: Path) -> None:
    """The password's file is that of the node's agent, whatever else is said."""
    evil = "../../../evil"
    root = join(user=evil)
    names = [path.name for path in (root / "etc/orion/passwords").iterdir()]
    assert names == ["orion-agent-orion-worker"] and not list(tmp_path.rglob("evil*"))


@pytest.mark.everything(where=AS_ROOT)
def test_another_program_goes_on_with_the_code_before_it_is_taken(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and never after: what streams.toml wants more is installed, and this program ends its work."""
    steps: list[str] = []

    def install(*_: object) -> bool:
        steps.append("install")
        return True

    def take(_: Ticket) -> Invitation:
        steps.append("take")
        return Invitation(TICKET.node, "secret", TOML)

    monkeypatch.setattr(venv, "install", install)
    monkeypatch.setattr(venv, "go_on", lambda code="": steps.append(f"go on {code}".strip()))
    monkeypatch.setattr(join_command, "take", take)
    assert (join() / "etc/systemd/system/orion-agent.service").exists()
    assert steps == ["install", f"go on {CODE}", "take", "install"]


def test_the_program_that_goes_on_reads_the_code_again(tmp_path: Path) -> None:
    """From its stdin, though the pipe that was pasted into is empty by then; no command line has it."""
    program = tmp_path / "orion"
    program.write_text("#!/bin/sh\necho $*\ncat\n")
    program.chmod(0o755)
    script = (
        "import sys; from orion_streams.cli.install import venv\n"
        "venv.VENV, venv.ORION = sys.prefix, sys.argv.pop()\n"
        "venv.go_on(sys.stdin.read())"
    )
    words = [sys.executable, "-c", script, "join", str(program)]
    done = subprocess.run(words, input=CODE, capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert done.stdout == f"join\n{CODE}"


@pytest.mark.everything(where=AS_ROOT)
def test_an_installation_goes_on_as_the_program_that_it_has_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it writes any unit, which are that release's; not where only a look was asked for."""
    root = machine(tmp_path / "master")
    monkeypatch.setattr(venv, "install", lambda *_: True)
    monkeypatch.setattr(venv, "go_on", lambda: sys.exit("gone on"))
    (tmp_path / "streams.toml").write_text(TOML)
    held = root / "etc/orion/passwords/orion-agent-orion-worker"
    held.parent.mkdir(parents=True, mode=0o700)
    held.write_text("secret")
    held.chmod(0o600)
    given = str(tmp_path / "streams.toml")
    options = InstallOptions("agent", "orion-worker", config=given, root=str(root))
    with pytest.raises(SystemExit, match="gone on"):
        install_command.run(options=options, as_json=True)
    assert not (root / "etc/systemd/system/orion-agent.service").exists()
    install_command.run(options=structs.replace(options, dry=True), as_json=True)


@pytest.mark.everything(where=AS_ROOT)
def test_a_house_with_an_open_secret_writes_nothing_here(join: Join, tmp_path: Path) -> None:
    """Nor does one whose streams.toml is none."""
    for toml in (TOML + '[alerts_to.phone]\nwebhook = "https://example.org/hidden"\n', "[nodes.x"):
        with pytest.raises(ConfigError):
            join(toml=toml)
    assert not (tmp_path / "worker/machine/etc/orion").exists()
