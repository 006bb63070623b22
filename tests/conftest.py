"""Real servers for the session, and a log of each kind for one test."""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from msgspec import structs
from redis.asyncio import Redis

from orion_streams.config import Config, parse
from orion_streams.eventlog.memory_log import MemoryLog
from orion_streams.eventlog.port import Log
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.helpers import Fields, Store
from tests.needs import REDIS_SERVER

os.environ.pop("ORION_COMMAND", None)  # messages name `orion`, however the tests were started
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # no law depends on how fast it is tried

pytest_plugins = ["tests.selection"]
STREAMS_TOML = Path(__file__).parents[1] / "streams.toml"
SERVERS = ["valkey", pytest.param("redis", marks=pytest.mark.everything)]
EPOCH_MS = 1_800_000_000_000


class Clock:
    """How far the server's clock was moved on."""

    skipped_ms = 0


class ClockedLog(RedisLog):
    """A RedisLog whose server's clock a test can move on."""

    def __init__(self, redis: Redis, prefix: str, clock: Clock) -> None:
        super().__init__(redis, prefix)
        self._clock = clock

    async def read(self, cursors: Mapping[str, str], count: int, block_ms: int) -> Any:
        server_ms, found = await super().read(cursors, count, block_ms)
        return server_ms + self._clock.skipped_ms, found


class MemoryStore:
    """A Store in memory. Its clock stands still unless it is moved."""

    kind = "memory"

    def __init__(self, prefix: str = "t:") -> None:
        self.prefix, self._now_ms = prefix, EPOCH_MS
        self.memory = MemoryLog(lambda: self._now_ms)
        self.log: Log = self.memory

    def another(self) -> Log:
        return self.memory

    async def add(self, stream: str, fields: Mapping[Any, Any], entry_id: str = "") -> str:
        return await self.memory.add(stream, fields, entry_id)

    async def entries(self, stream: str) -> list[tuple[str, Fields]]:
        return list(self.memory.streams.get(stream, {}).items())

    async def delete(self, stream: str, entry_id: str) -> None:
        del self.memory.streams[stream][entry_id]

    async def drop(self, key: str) -> None:
        if key == "guard":
            self.memory.held.clear()
        self.memory.streams.pop(key, None)
        self.memory._tops.pop(key, None)
        self.memory._counts.pop(key, None)

    async def dump(self) -> dict[str, Any]:
        held = self.memory
        return copy.deepcopy({**held.streams, "guard": held.held, "tops": held._tops})

    async def restore(self, dumped: dict[str, Any]) -> None:
        streams = copy.deepcopy(dumped)
        self.memory.held, self.memory._tops = streams.pop("guard"), streams.pop("tops")
        self.memory.streams = streams

    async def blocked(self) -> int:
        return len(self.memory._added._waiters)

    def skip(self, ms: int) -> None:
        self._now_ms += ms


class ServerStore:
    """A Store on a real server, under a prefix of its own."""

    def __init__(self, kind: str, redis: Redis, prefix: str) -> None:
        self.kind, self.prefix, self._clock = kind, prefix, Clock()
        self.redis: Any = redis
        self.log: Log = self.another()

    def another(self) -> Log:
        return ClockedLog(self.redis, self.prefix, self._clock)

    async def add(self, stream: str, fields: Mapping[Any, Any], entry_id: str = "") -> str:
        return await self.add_pairs(stream, list(fields.items()), entry_id)

    async def add_pairs(self, stream: str, pairs: list[tuple[Any, Any]], entry_id: str = "") -> str:
        """XADD with fields that may repeat."""
        if not entry_id:
            seconds, micros = await self.redis.time()
            now_ms = seconds * 1000 + micros // 1000 + self._clock.skipped_ms
            entry_id = f"{now_ms}-*" if self._clock.skipped_ms else "*"
        flat = [part for pair in pairs for part in pair]
        added = await self.redis.execute_command("XADD", self.prefix + stream, entry_id, *flat)
        return str(added.decode())

    async def entries(self, stream: str) -> list[tuple[str, Fields]]:
        rows = await self.redis.xrange(self.prefix + stream)
        return [(entry_id.decode(), fields) for entry_id, fields in rows]

    async def delete(self, stream: str, entry_id: str) -> None:
        assert await self.redis.xdel(self.prefix + stream, entry_id) == 1

    async def drop(self, key: str) -> None:
        await self.redis.delete(self.prefix + key)

    async def dump(self) -> dict[str, Any]:
        keys = [key async for key in self.redis.scan_iter(match=self.prefix + "*", count=1000)]
        return {key.decode().removeprefix(self.prefix): await self.redis.dump(key) for key in sorted(keys)}

    async def restore(self, dumped: dict[str, Any]) -> None:
        for key in await self.dump():
            await self.drop(key)
        for key, value in dumped.items():
            await self.redis.restore(self.prefix + key, 0, value)

    async def blocked(self) -> int:
        return int((await self.redis.info("clients"))["blocked_clients"])

    def skip(self, ms: int) -> None:
        self._clock.skipped_ms += ms


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded Valkey, for the whole session."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's redis-server, for the whole session."""
    assert REDIS_SERVER is not None, "redis-server is not installed: mark the test `everything`"
    with EmbeddedServer(tmp_path_factory.mktemp("redis"), binary=Path(REDIS_SERVER)) as server:
        yield server.url


@pytest.fixture
def everything(pytestconfig: pytest.Config) -> bool:
    """Whether --all was said: then a sweep leaves nothing out."""
    return bool(pytestconfig.option.all)


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test has."""
    return f"t{uuid4().hex[:12]}:"


@pytest.fixture
def config(prefix: str) -> Config:
    """The repository's streams.toml, under the test's prefix."""
    text = STREAMS_TOML.read_text(encoding="utf-8")
    return structs.replace(parse(text, str(STREAMS_TOML)), prefix=prefix)


@pytest.fixture(params=["memory", *SERVERS])
async def store(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Store]:
    """A log in memory, on the embedded Valkey and on Redis."""
    if request.param == "memory":
        yield MemoryStore(prefix)
    else:
        async for opened in open_store(request.param, request.getfixturevalue, prefix):
            yield opened


@pytest.fixture(params=SERVERS)
async def server_store(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[ServerStore]:
    """A log on the embedded Valkey and on Redis: for what only a server can do."""
    async for opened in open_store(request.param, request.getfixturevalue, prefix):
        yield opened


async def open_store(kind: str, fixture: Callable[[str], str], prefix: str) -> AsyncIterator[ServerStore]:
    """A store on the session's server of that kind; its keys are gone afterwards."""
    redis = connect(fixture(f"{kind}_url"))
    opened = ServerStore(kind, redis, prefix)
    yield opened
    for key in await opened.dump():
        await opened.drop(key)
    await redis.aclose()
