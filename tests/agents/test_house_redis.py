"""On a Redis that others use, too: a whole grid touches its own keys alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis
from msgspec import structs

from orion_streams import AsyncClient
from orion_streams.agents import apps
from orion_streams.cli import archive_command, log_view, read_commands
from orion_streams.cli.doctor import doctor_command
from orion_streams.cli.options import CommonOptions
from orion_streams.demo.ollama import serve
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.agents.agent_bench import MODEL, QUICK, Bench, routing, running, toml
from tests.helpers import eventually, eventually_true
from tests.needs import REDIS_SERVER

BINARIES = [None, pytest.param(REDIS_SERVER, marks=pytest.mark.everything)]
PREFIX = "orion:"
KEYLESS = {"PING", "INFO", "TIME", "SELECT", "SCRIPT", "HELLO", "CLIENT"}
"""Commands of the grid that name no key and change none."""


def furnished(client: Any) -> None:
    """Keys of others, of every type, some with names much like the grid's."""
    client.set("orion", "a string")
    client.set("oriona:log", "b")
    client.hset("guard", mapping={"number": 5})
    client.hset("Orion:guard", mapping={"number": 7})
    client.rpush("bus:queue", *range(50))
    client.sadd("bus:set", *range(50))
    client.zadd("bus:sorted", {"a": 1, "b": 2})
    for key in ("log", "requests:brain", "bus:stream", "work:n1"):
        client.xadd(key, {"id": "x", "model": MODEL, "prompt": "not for the grid"})
    client.xgroup_create("bus:stream", "agent", id="0")


def foreign(client: Any) -> dict[bytes, bytes]:
    """All keys outside the prefix, as they are."""
    return {key: client.dump(key) for key in sorted(client.keys("*")) if not key.startswith(b"orion:")}


class Watched:
    """What MONITOR saw, as words."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def strange(self, client: Any) -> list[list[str]]:
        """Commands that name a key outside the prefix, or none and are not the usual ones."""
        found = []
        for words in {" ".join(each): each for each in self.commands}.values():
            try:
                keys = [str(key) for key in client.command_getkeys(*words)]
            except sync_redis.ResponseError:
                keys = []
            ours = all(key.startswith(PREFIX) for key in keys)
            if words[0].upper() == "SCAN" and words[2:4] == ["MATCH", f"{PREFIX}*"]:
                continue
            if not ours or (not keys and words[0].upper() not in KEYLESS):
                found.append(words)
        return found


@contextmanager
def watching(url: str) -> Iterator[Watched]:
    """Note every command that the server gets while the block runs, also those within scripts."""
    seen, ready = Watched(), threading.Event()
    client: Any = sync_redis.Redis.from_url(url)

    def listen() -> None:
        with client.monitor() as monitor:
            ready.set()
            for each in monitor.listen():
                words = str(each["command"]).split(" ")
                if words[:2] == ["ECHO", "over"]:
                    return
                seen.commands.append(words)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield seen
    finally:
        other = sync_redis.Redis.from_url(url)
        other.echo("over")
        other.close()
        thread.join(10)
        client.close()
    assert not thread.is_alive()


async def lived(bench: Bench, home: Path) -> None:
    """A day of a grid in short: requests, answers, a cancel, trimming, and every command that reads."""
    config = home / "streams.toml"
    config.write_text(toml(bench.url, PREFIX, bench.node.url))
    async with routing(bench.config), running(bench.config), running(bench.config, "edge"):
        async with AsyncClient(bench.url, prefix=PREFIX) as client:
            for n in range(20):
                assert (await client.generate(MODEL, f"question {n}")).text
            await client.cancel("nobody")

        async def kept() -> bool:
            return len(await bench.redis.xrange(f"{PREFIX}snapshots")) == 2

        await eventually(kept, "two snapshots")
        common = CommonOptions(True, None, str(config))
        for what in read_commands.MAKERS:
            assert await read_commands.run(what=what, common=common) == 0
        assert await doctor_command.run(common=common) in (0, 3)
    assert await log_view.run(follow=False, start=1, count=None, common=common) == 0
    assert await archive_command.run(folder=str(home / "archive"), common=common) == 0


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_grid_touches_only_keys_under_its_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: str | None
) -> None:
    """Router, agents, client, trimming, reads, archive and doctor: each command names keys under the prefix
    alone, and the keys of others are, byte for byte, as they were."""
    monkeypatch.setattr(apps, "KEEP_EVERY_S", 0.1)
    with EmbeddedServer(tmp_path / "data", binary=Path(binary) if binary else None) as server:
        house: Any = sync_redis.Redis.from_url(server.url)
        furnished(house)
        before = foreign(house)
        async with serve(QUICK) as node:
            bench = Bench(server.url, PREFIX, node)
            kept = structs.replace(bench.config.retention, snapshot_events=30, log_keep_ms=1)
            bench.config = structs.replace(bench.config, retention=kept)
            with watching(server.url) as seen:
                await lived(bench, tmp_path)
                await bench.redis.aclose()
        assert foreign(house) == before
        used = {words[0].upper() for words in seen.commands}
        assert {"EVALSHA", "XADD", "XREADGROUP", "XTRIM", "XACK", "HGETALL"} <= used
        assert seen.strange(house) == []
        house.close()


def test_the_watch_sees_what_is_strange(valkey_url: str) -> None:
    """The control: a key of somebody else, and a command without a key that the grid does not use."""
    house: Any = sync_redis.Redis.from_url(valkey_url)
    with watching(valkey_url) as seen:
        house.xadd("orion:log", {"a": 1}, id="1-0")
        house.get("bus:key")
        house.eval("return redis.call('GET', KEYS[1])", 1, "another:key")
        house.dbsize()
        eventually_true(lambda: any(each[0] == "DBSIZE" for each in seen.commands), "the last of them")
    house.delete("orion:log")
    assert {words[0] for words in seen.strange(house)} == {"GET", "EVAL", "DBSIZE"}
    house.close()
