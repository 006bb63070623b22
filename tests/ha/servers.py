"""A primary, its replica and three sentinels on loopback, with quick settings, to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from orion_streams.runtime.embedded_server import free_port
from orion_streams.runtime.supervisor import die_with_parent
from tests.helpers import eventually_true

SERVICE = "orion"
SERVER = """\
port {port}
bind 127.0.0.1
dir {dir}
logfile {dir}/log
save ""
repl-diskless-sync-delay 0
"""
QUICKER = {"192.168.1.10 6379": "127.0.0.1 {primary}", "26379": "{port}", "5000": "1000", "30000": "5000"}
"""What the documented sentinel.conf becomes here: loopback, and a fifth of its times."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "HIGH-AVAILABILITY.md"


def documented(name: str) -> str:
    """The block of the document that begins with `# NAME`."""
    blocks = DOCUMENT.read_text(encoding="utf-8").split("```")
    [block] = [each for each in blocks if each.lstrip().startswith(f"# {name}")]
    return block


def sentinel_conf(primary: int, more: str) -> str:
    """The documented sentinel.conf for this machine, and `more` of it."""
    text = documented("sentinel.conf")
    for there, here in QUICKER.items():
        assert there in text
        text = text.replace(there, here)
    return (
        text.replace("{primary}", str(primary))
        + f"bind 127.0.0.1\ndir {{dir}}\nlogfile {{dir}}/log\n{more}"
    )


class Instance:
    """One process with its folder and port."""

    def __init__(self, binary: Path, folder: Path, text: str, *words: str, password: str = "") -> None:
        folder.mkdir()
        self.port, self.tls_port, self.folder = free_port(), free_port(), folder
        self._path = folder / "server.conf"
        self._path.write_text(for_here(text, port=self.port, tls_port=self.tls_port, dir=folder))
        self._argv = [str(binary), str(self._path), *words]
        self._process: subprocess.Popen[bytes] | None = None
        self.redis: Any = Redis(port=self.port, socket_timeout=2, password=password or None)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            self._argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - nobody else forks meanwhile
        )
        eventually_true(lambda: self.says("PING") is not None, f"an answer of {self.folder.name}")

    def says(self, *command: str) -> Any:
        """Its answer; None while it has none."""
        try:
            return self.redis.execute_command(*command)
        except RedisError:
            return None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.redis.close()


def for_here(text: str, **values: object) -> str:
    """The text with {name} replaced."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


class House:
    """All five. `url` names the sentinels. With a `password`, servers and sentinels ask for it; with `tls`,
    settings of a TLS port, they speak TLS with each other and with clients."""

    def __init__(self, binary: Path, folder: Path, password: str = "", tls: str = "") -> None:
        self._tls = bool(tls)
        tls += "tls-replication yes\n" if tls else ""
        text, more = SERVER + documented("redis.conf") + tls, tls
        if password:
            text += f"requirepass {password}\nmasterauth {password}\n"
            more += f"sentinel auth-pass {SERVICE} {password}\nrequirepass {password}\n"
            more += f"sentinel sentinel-pass {password}\n"
        self.primary = Instance(binary, folder / "primary", text, password=password)
        text += f"replicaof 127.0.0.1 {self.reach(self.primary)}\n"
        self.replica = Instance(binary, folder / "replica", text, password=password)
        conf = sentinel_conf(self.reach(self.primary), more)
        self.sentinels = [
            Instance(binary, folder / f"sentinel{n}", conf, "--sentinel", password=password)
            for n in range(3)
        ]

    @property
    def url(self) -> str:
        """By which all clients find the primary."""
        places = ",".join(f"127.0.0.1:{self.reach(each)}" for each in self.sentinels)
        return f"{'rediss' if self._tls else 'redis'}+sentinel://{places}/{SERVICE}"

    def reach(self, instance: Instance) -> int:
        """The port by which others reach it."""
        return instance.tls_port if self._tls else instance.port

    def __enter__(self) -> Self:
        try:
            for each in (self.primary, self.replica, *self.sentinels):
                each.start()
            eventually_true(self.complete, "three sentinels that know each other and the replica")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill all of them."""
        for each in (*self.sentinels, self.replica, self.primary):
            each.kill()

    def complete(self) -> bool:
        """Whether every sentinel knows the two others and the replica, which is up to date."""
        linked = self.replica.redis.info("replication").get("master_link_status") == "up"
        return linked and all(
            found["num-other-sentinels"] == 2 and found["num-slaves"] == 1
            for found in (each.redis.sentinel_master(SERVICE) for each in self.sentinels)
        )

    def cut_replication(self) -> None:
        """From now on the replica gets nothing, while the primary goes on."""
        self.replica.redis.config_set("masterauth", "nobody asked for one")
        self.primary.redis.execute_command("CLIENT", "KILL", "TYPE", "replica")
        eventually_true(
            lambda: self.replica.redis.info("replication")["master_link_status"] == "down", "a cut link"
        )

    def taken_over(self) -> bool:
        """Whether the replica is the primary now."""
        return bool(self.replica.redis.info("replication")["role"] == "master")
