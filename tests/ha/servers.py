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

from orion_streams.processes import die_with_parent
from orion_streams.server import free_port
from tests.helpers import eventually_true

SERVICE = "house"
SERVER = """\
port {port}
bind 127.0.0.1
dir {dir}
logfile {dir}/log
appendonly yes
save ""
repl-diskless-sync-delay 0
"""
SENTINEL = """\
port {port}
bind 127.0.0.1
dir {dir}
logfile {dir}/log
sentinel monitor house 127.0.0.1 {primary} 2
sentinel down-after-milliseconds house 1000
sentinel failover-timeout house 5000
"""


class Instance:
    """One process with its folder and port."""

    def __init__(self, binary: Path, folder: Path, text: str, *words: str) -> None:
        folder.mkdir()
        self.port, self.folder = free_port(), folder
        self._path = folder / "server.conf"
        self._path.write_text(text.replace("{port}", str(self.port)).replace("{dir}", str(folder)))
        self._argv = [str(binary), str(self._path), *words]
        self._process: subprocess.Popen[bytes] | None = None
        self.redis: Any = Redis(port=self.port, socket_timeout=2)

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


class House:
    """All five. `url` names the sentinels."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.primary = Instance(binary, folder / "primary", SERVER)
        copy = SERVER + f"replicaof 127.0.0.1 {self.primary.port}\n"
        self.replica = Instance(binary, folder / "replica", copy)
        text = SENTINEL.replace("{primary}", str(self.primary.port))
        self.sentinels = [Instance(binary, folder / f"sentinel{n}", text, "--sentinel") for n in range(3)]

    @property
    def url(self) -> str:
        """By which all clients find the primary."""
        places = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{places}/{SERVICE}"

    def __enter__(self) -> Self:
        try:
            for each in (self.primary, self.replica, *self.sentinels):
                each.start()
            eventually_true(self.complete, "three sentinels that know each other and the replica", 30.0)
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
