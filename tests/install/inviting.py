"""A house that invites: a server with users, and folders that stand for its machine and for others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import redis

from orion_streams.cli.install.invitation import Ticket, decode
from orion_streams.runtime import acl
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.cli.run_cli import environment
from tests.helpers import WAIT_S, eventually_true
from tests.install.houses import machine
from tests.security.guarded import log_in

ADMIN = "orion-admin"
OTHER_NAME = "[::ffff:127.0.0.1]"
"""Loopback, by a name that does not look like it: to the other machine's folder it leads all the same."""
TOML = """
revision = 1
[redis]
url = "redis://orion-owner@{place}/0"
password_file = "/etc/orion/passwords/orion-owner"
[clients.brain]
[nodes.orion-master]
tiers = [1, 2]
[nodes.orion-worker]
tiers = [2]
simulated = true
ollama = "{ollama}"
"""


class House:
    """One that was installed, as far as an invitation needs it."""

    def __init__(self, folder: Path, server: EmbeddedServer, ollama: str) -> None:
        self.folder, self.server = folder, server
        self.place = f"{OTHER_NAME}:{server.port}"
        self.root = machine(folder / "master")
        self.held = "the administrator's password"
        self.default: Any = cast("Any", redis.Redis(port=server.port, protocol=2, driver_info=None))
        rules = ("reset", "on", f"#{acl.hashed(self.held)}", "~*", "&*", "+@all")
        self.default.execute_command("ACL", "SETUSER", ADMIN, *rules)
        passwords = self.root / "etc/orion/passwords"
        passwords.mkdir(parents=True, mode=0o700)
        (passwords / ADMIN).write_text(self.held)
        (passwords / ADMIN).chmod(0o600)
        self.toml = self.root / "etc/orion/streams.toml"
        self.toml.write_text(TOML.format(place=self.place, ollama=ollama))
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, *words: str, root: Path | None = None, more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """`orion WORDS`, for the house's machine or another one."""
        own = ("--root", str(root)) if root else ()
        process = subprocess.Popen(
            [sys.executable, "-m", "orion_streams.cli", *words, *own],
            cwd=self.folder, env=environment(self.folder, **(more or {})), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *words: str, root: Path | None = None, stdin: str = "") -> tuple[int, str, str]:
        """The same to its end."""
        process = self.start(*words, root=root)
        out, err = process.communicate(stdin, timeout=WAIT_S)
        return process.returncode, out, err

    def invite(self, node: str = "orion-worker", *words: str) -> str:
        """The code of an invitation for which nobody waits."""
        code, out, err = self.run("invite", node, "--no-wait", "--json", *words, root=self.root)
        assert code == 0, err
        return code_of(json.loads(out)["line"])

    def other(self, name: str) -> Path:
        """A folder that stands for another machine."""
        return machine(self.folder / name)

    def join(self, root: Path, code: str, *words: str) -> tuple[int, str, str]:
        """Paste a code there."""
        return self.run("join", *words, root=root, stdin=code + "\n")

    def users(self) -> list[str]:
        """Those whom the server knows of invitations."""
        names = [raw.decode() for raw in self.default.execute_command("ACL", "USERS")]
        return [name for name in names if name.startswith("orion-invite-")]

    def login(self, ticket: Ticket) -> Any:
        """As the one-time user."""
        return log_in(self.server, ticket.user, ticket.password)

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            process.kill()
            process.communicate()
        self.default.close()


def code_of(line: str) -> str:
    """The code in the line that is pasted, which is all right."""
    words = line.split()
    assert words[0] == "echo" and words[2:] == ["|", "sudo", "orion", "join"]
    assert decode(words[1])
    return words[1]


def printed_code(process: subprocess.Popen[str]) -> str:
    """The code in what an invitation prints while it waits."""
    assert process.stdout is not None
    return code_of(next(line for line in process.stdout if line.startswith(" echo ")))


def command_lines(processes: Sequence[subprocess.Popen[str]]) -> str:
    """All that a `ps` shows of them."""
    found = ""
    for each in processes:
        path = Path(f"/proc/{each.pid}/cmdline")
        found += path.read_text() if path.exists() else ""
    return found


def says(process: subprocess.Popen[str], words: str) -> str:
    """What it has said on stderr up to a line with these words."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without {words!r}: {said}")


def gone(house: House) -> None:
    """Wait until no one-time user is left."""
    eventually_true(lambda: not house.users(), "the one-time user is removed")
