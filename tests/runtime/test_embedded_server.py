"""The embedded server, and what is asked of any server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from orion_streams.errors import BackendError, ConfigError
from orion_streams.runtime import embedded_server as server_module
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer, data_dir, free_port
from orion_streams.runtime.server_check import check_server, weakness
from tests.helpers import WAIT_S, eventually_true
from tests.needs import REDIS_SERVER

OWNER = """
import signal, sys
from pathlib import Path
from orion_streams.runtime.embedded_server import EmbeddedServer
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
server = EmbeddedServer(Path(sys.argv[1]))
print(server.start(), flush=True)
while sys.stdin.readline():
    pass
server.stop()
print("stopped", flush=True)
"""

BINARIES = [
    pytest.param(None, id="valkey"),
    pytest.param(REDIS_SERVER, id="redis", marks=pytest.mark.everything),
]


def client(url: str) -> Any:
    """A blocking client."""
    return Redis.from_url(url, socket_timeout=WAIT_S)


def answers(url: str) -> bool:
    """Whether a server answers there."""
    with client(url) as redis:
        try:
            return bool(redis.ping())
        except RedisError:
            return False


def own(folder: Path) -> subprocess.Popen[str]:
    """A process with an embedded server in that folder, as the leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("binary", BINARIES)
async def test_it_runs_as_a_grid_needs_it(tmp_path: Path, binary: str | None) -> None:
    """The server keeps an append-only file, evicts nothing, listens on loopback only, passes the check."""
    with EmbeddedServer(tmp_path / "data", "always", binary=Path(binary) if binary else None) as server:
        redis: Any = connect(server.url)
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
            "bind": "127.0.0.1",
            "dir": str(tmp_path / "data"),
        }
        held = {key: (await redis.config_get(key))[key] for key in wanted}
        assert held == wanted
        await check_server(redis)
        await redis.aclose()
    assert not answers(server.url)


def test_what_was_written_survives_a_restart(tmp_path: Path) -> None:
    """A second start on the same folder has the data of the first, whatever characters the path has."""
    folder = tmp_path / 'a "quoted" folder'
    with EmbeddedServer(folder) as server, client(server.url) as redis:
        entry_id = redis.xadd("s", {"field": b"\x00\xff"})
    with EmbeddedServer(folder) as server, client(server.url) as redis:
        assert redis.xrange("s") == [(entry_id, {b"field": b"\x00\xff"})]


def test_a_given_port_is_taken_or_refused(tmp_path: Path) -> None:
    """The server takes the port asked for; if it is in use, the error says so and what to do."""
    port = free_port()
    with EmbeddedServer(tmp_path / "one", port=port) as server:
        assert server.url == f"redis://127.0.0.1:{port}/0"
        with pytest.raises(BackendError, match=f"port {port} is in use; choose another"):
            EmbeddedServer(tmp_path / "two", port=port).start()
        assert answers(server.url)


def test_a_free_port_that_is_gone_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process takes the free port first, the server takes another one."""
    with EmbeddedServer(tmp_path / "one") as first:
        ports = iter([first.port, first.port, free_port()])
        monkeypatch.setattr(server_module, "free_port", lambda: next(ports))
        with EmbeddedServer(tmp_path / "two") as second:
            assert second.port != first.port
            assert answers(second.url)


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A binary that ends at once is an error that names the log file; the folder can be used again."""
    with pytest.raises(BackendError, match=r"did not start: .*server\.log"):
        EmbeddedServer(tmp_path, binary=Path("/bin/false")).start()
    with EmbeddedServer(tmp_path) as server:
        assert answers(server.url)


def test_stopping_twice_changes_nothing(tmp_path: Path) -> None:
    """A stop without a server does nothing, and the same object can be started again."""
    server = EmbeddedServer(tmp_path)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    with server:
        assert answers(server.url)


def test_one_folder_has_one_server(tmp_path: Path) -> None:
    """A second server on the same folder is refused and told the owner; the first one goes on."""
    with EmbeddedServer(tmp_path) as server:
        with pytest.raises(ConfigError, match=f"already has a server, started by process {os.getpid()}"):
            EmbeddedServer(tmp_path).start()
        assert answers(server.url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A data_dir below a file is a ConfigError."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"redis\.data_dir: .*file/data cannot be used"):
        EmbeddedServer(tmp_path / "file" / "data").start()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_owner(tmp_path: Path, how: signal.Signals) -> None:
    """When its owner is killed the server ends soon, keeps its data and frees the folder."""
    with own(tmp_path) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        with client(url) as redis:
            redis.xadd("s", {"a": 1})
        owner.send_signal(how)
        assert owner.wait(10) == -how
    eventually_true(lambda: not answers(url), "the server ends with its owner")
    with EmbeddedServer(tmp_path) as server, client(server.url) as redis:
        assert redis.xlen("s") == 1


def test_an_interrupt_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    """After SIGINT to the owner's process group the server answers until the owner stops it."""
    with own(tmp_path) as owner:
        assert owner.stdout is not None
        assert owner.stdin is not None
        url = owner.stdout.readline().strip()
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.stdout.readline() == "interrupted\n"
        assert answers(url)
        owner.stdin.close()
        assert owner.stdout.readline() == "stopped\n"
        assert not answers(url)


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_server_that_loses_data_is_refused(tmp_path: Path, binary: str | None) -> None:
    """A server without append-only file, or that evicts, is refused with a command that mends it."""
    with EmbeddedServer(tmp_path, binary=Path(binary) if binary else None) as server:
        redis: Any = connect(server.url)
        for wrong, key, value, mended in (
            ({"appendonly": "no"}, "appendonly", "yes", "keeps nothing: appendonly is no"),
            (
                {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"},
                "maxmemory-policy",
                "noeviction",
                "may drop streams: maxmemory-policy is allkeys-lru",
            ),
        ):
            for name, setting in wrong.items():
                await redis.config_set(name, setting)
            with pytest.raises(ConfigError) as caught:
                await check_server(redis)
            complaint, _, line = str(caught.value).partition("Mend it: ")
            assert mended in complaint
            address = server.url.removesuffix("/0")
            assert line == (
                f"redis-cli -u {address} CONFIG SET {key} {value} && redis-cli -u {address} CONFIG REWRITE"
            )
            assert caught.value.exit_code == 78
            for command in line.split(" && "):
                await redis.execute_command(*command.removeprefix(f"redis-cli -u {address} ").split())
            await check_server(redis)
        await redis.aclose()


async def test_volatile_is_allowed_on_demand(tmp_path: Path) -> None:
    """With allow_volatile a server without an append-only file is accepted."""
    with EmbeddedServer(tmp_path) as server:
        redis: Any = connect(server.url)
        await redis.config_set("appendonly", "no")
        await check_server(redis, allow_volatile=True)
        await redis.aclose()


async def test_a_read_only_replica_is_refused(tmp_path: Path) -> None:
    """A read-only replica is refused, and the message names its master."""
    with EmbeddedServer(tmp_path / "a") as master, EmbeddedServer(tmp_path / "b") as server:
        redis: Any = connect(server.url)
        await redis.replicaof("127.0.0.1", str(master.port))
        with pytest.raises(ConfigError, match=f"read-only replica.*redis://127.0.0.1:{master.port}"):
            await check_server(redis)
        await redis.aclose()


async def test_a_server_that_forbids_config_is_checked_all_the_same(tmp_path: Path) -> None:
    """An ACL user with INFO alone can be checked; one without it is refused with the reason."""
    with EmbeddedServer(tmp_path) as server:
        admin: Any = connect(server.url)
        await admin.execute_command("ACL", "SETUSER", "asks", "on", "nopass", "+info")
        await admin.execute_command("ACL", "SETUSER", "mute", "on", "nopass", "+ping")
        await admin.config_set("appendonly", "no")
        for user, expected in (("asks", "keeps nothing"), ("mute", "refuses this user")):
            redis = connect(server.url.replace("//", f"//{user}:any@"))
            with pytest.raises(ConfigError, match=expected) as caught:
                await check_server(redis)
            assert "any@" not in str(caught.value)
            await redis.aclose()
        await admin.aclose()


async def test_what_waiting_cannot_mend_is_bad_configuration(tmp_path: Path) -> None:
    """A database that the server does not have is a ConfigError, exit code 78, not 69."""
    with EmbeddedServer(tmp_path) as server:
        redis = connect(server.url.removesuffix("/0") + "/99")
        with pytest.raises(ConfigError, match=r"refuses: .*out of range") as caught:
            await check_server(redis)
        assert caught.value.exit_code == 78
        await redis.aclose()


async def test_no_server_is_a_backend_error() -> None:
    """A port where nobody listens is a BackendError of one sentence, exit code 69."""
    redis = connect(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(BackendError, match="does not answer") as caught:
        await check_server(redis)
    assert caught.value.exit_code == 69
    await redis.aclose()


GOOD = {
    "redis_version": "7.0.15",
    "role": "master",
    "aof_enabled": 1,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"redis_version": "6.2.14"}, "too old"),
        ({"redis_version": "7.4.0-v1"}, None),
        ({"redis_version": "6.9.9", "valkey_version": "9.1.2"}, None),
        ({"maxmemory_policy": "allkeys-lru"}, None),
        ({"maxmemory": 1, "maxmemory_policy": "volatile-ttl"}, "volatile-ttl"),
        ({"role": "slave", "slave_read_only": 1}, "replica"),
        ({"role": "slave", "slave_read_only": 0}, None),
        ({"aof_enabled": 0}, "keeps nothing"),
    ],
)
def test_what_is_asked_of_a_server(changes: dict[str, Any], complaint: str | None) -> None:
    """A server needs version 7.0, an append-only file, no eviction under a limit, and to take writes."""
    found = weakness(GOOD | changes, allow_volatile=False)
    assert (found is None) == (complaint is None)
    if found is not None:
        assert complaint is not None
        assert complaint in found[0]


def test_where_the_data_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is redis.data_dir, else below $XDG_DATA_HOME, else below ~/.local/share."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert data_dir("~/here") == tmp_path / "here"
    assert data_dir("") == Path("/xdg/orion-streams")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert data_dir("") == tmp_path / ".local/share/orion-streams"
