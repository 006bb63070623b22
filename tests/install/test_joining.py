"""`orion join` against a server that is simulated: what it takes, writes and hands on."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.cli.install import join_command
from orion_streams.cli.install.invitation import Ticket, encode
from orion_streams.cli.install.join_command import JoinOptions
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
