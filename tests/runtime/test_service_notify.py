"""What systemd is told: by a stand-in for its socket, and a loop that is really stuck."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from orion_streams.cli import roles
from orion_streams.runtime.embedded_server import EmbeddedServer, free_port
from orion_streams.runtime.service_notify import ServiceManager, in_a_line
from tests.cli.run_cli import TOML, environment
from tests.helpers import WAIT_S

INTERVAL_S = 0.3
STUCK = """
import asyncio, os, sys
from orion_streams.agents import apps
from orion_streams.config import load
app = apps.router_app(load(sys.argv[1]))
@app.task
async def stick():
    while not app.manager._is_ready:
        await asyncio.sleep(0.01)
    os.write(1, b"stuck")
    os.read(0, 1)
    os.write(1, b"free")
sys.exit(apps.run(app))
"""


class Manager:
    """The stand-in: a socket that keeps what came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(WAIT_S)

    def next(self) -> str:
        """The next datagram; TimeoutError if none comes."""
        return self.socket.recv(4096).decode()

    def until(self, word: str) -> list[str]:
        """All datagrams up to the first with that word."""
        found = [self.next()]
        while word not in found[-1]:
            found.append(self.next())
        return found

    def waiting(self) -> list[str]:
        """What lies there now."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self.socket.settimeout(WAIT_S)


@contextmanager
def managed(folder: Path, name: str) -> Iterator[Manager]:
    """A stand-in in a folder."""
    made = Manager(folder / name)
    with closing(made.socket):
        yield made


def config_at(folder: Path, url: str) -> Path:
    """A streams.toml for a server."""
    path = folder / "own.toml"
    text = TOML.format(prefix="t:", url=url)
    path.write_text(
        text + f'[alerts_to.phone]\ncommand = ["true"]\n[gateway]\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    return path


@contextmanager
def process(folder: Path, manager: Manager, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that a service manager watches."""
    more = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(int(INTERVAL_S * 1e6))}
    started = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment(folder, **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        with started:
            yield started
            started.kill()
    finally:
        started.kill()


ROLES = (["router"], ["agent", "--node", "edge"], ["gateway"], ["alerts", "run"])


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role[0])
def test_who_waits_for_redis_is_ready_and_feeds_the_watchdog(tmp_path: Path, role: list[str]) -> None:
    """And says that it waits; told to end, those that hold something say that they do."""
    config = config_at(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    with managed(tmp_path, "notify") as manager:
        words = ("-m", "orion_streams.cli", *role, "--config", str(config))
        with process(tmp_path, manager, *words) as started:
            ready = manager.until("READY=1")[-1]
            assert "does not answer" in ready or "redis is away" in ready
            for _ in range(5):
                manager.until("WATCHDOG=1")
            started.send_signal(signal.SIGTERM)
            if role != ["router"]:  # it has nothing to end yet, and ends at once
                manager.until("STOPPING=1")
            started.wait(WAIT_S)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role[0])
def test_who_serves_is_ready(tmp_path: Path, role: list[str]) -> None:
    """Each role says so, and goes on feeding the watchdog."""
    with EmbeddedServer(tmp_path / "data") as server, managed(tmp_path, "notify") as manager:
        config = config_at(tmp_path, server.url)
        words = ("-m", "orion_streams.cli", *role, "--config", str(config))
        with process(tmp_path, manager, *words):
            ready = manager.until("READY=1")[-1]
            assert any(each in ready for each in ("working", "serving at http", "telling phone"))
            manager.until("WATCHDOG=1")
            manager.until("WATCHDOG=1")


def test_a_stuck_loop_feeds_nothing(tmp_path: Path) -> None:
    """While another process is heard of twenty times, it is not; set free, it is heard of again."""
    config = config_at(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    with managed(tmp_path, "stuck") as stuck, managed(tmp_path, "well") as well:
        words = ("-m", "orion_streams.cli", "router", "--config", str(config))
        with (
            process(tmp_path, stuck, "-c", STUCK, str(config)) as holds,
            process(tmp_path, well, *words),
        ):
            assert holds.stdout is not None and holds.stdin is not None
            assert os.read(holds.stdout.fileno(), 5) == b"stuck"
            assert any("READY=1" in each for each in stuck.waiting())
            for _ in range(20):
                well.until("WATCHDOG=1")
            assert stuck.waiting() == []
            holds.stdin.write(b".")
            holds.stdin.flush()
            stuck.until("WATCHDOG=1")


def test_without_a_service_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor when the watchdog means another process."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ServiceManager().ready("on")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert ServiceManager()._watchdog_s == 0


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd names one in a container: with an @ for the first byte."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0orion-test-{os.getpid()}")
        heard.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@orion-test-{os.getpid()}")
        manager = ServiceManager()
        manager.ready("on")
        manager.ready("on")
        manager.ready("off")
        assert [heard.recv(99) for _ in range(2)] == [b"READY=1\nSTATUS=on", b"STATUS=off"]


def test_a_manager_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is said once."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    manager = ServiceManager()
    manager.ready("on")
    manager.stopping()
    assert manager._failed


def test_a_status_is_one_line() -> None:
    """A line break would begin another assignment."""
    assert in_a_line("a\nREADY=1 b") == "a READY=1 b"
    assert len(in_a_line("x" * 999)) == 200


@pytest.mark.parametrize(
    ("words", "unit"), [(("router",), "orion-router"), (("alerts run",), "orion-alerts")]
)
def test_what_only_a_person_can_mend_is_not_tried_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], unit: str
) -> None:
    """The service says so and goes on for a while before it ends; elsewhere it ends at once."""
    bad = tmp_path / "streams.toml"
    bad.write_text("[nodes")
    held: list[float] = []

    async def sleep(for_s: float) -> None:
        held.append(for_s)

    monkeypatch.setattr("orion_streams.runtime.service_notify.asyncio.sleep", sleep)
    call = (*words, "--config", str(bad), "--redis", "redis://h")
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert roles.main(call) == 78 and held == []
    with managed(tmp_path, "socket") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        assert roles.main(call) == 78 and held == [roles.HOLD_S] and roles.HOLD_S >= 60
        assert f"STATUS=exit code 78, once a minute: journalctl -u {unit} says why" in manager.waiting()
