"""Under load every key of the grid keeps within its retention, on real servers with real agents."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams import AsyncClient
from orion_streams.agents import apps
from orion_streams.config import Config, parse
from orion_streams.demo.ollama import serve
from orion_streams.eventlog.archive import segments
from orion_streams.eventlog.loader import extend, load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.commit import CURSOR, RELAYED
from orion_streams.model.snapshot import encode_grid
from orion_streams.replay.source import FileSource
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.agents.agent_bench import MODEL, NODE, QUICK, Bench, routing, running, toml
from tests.conftest import SERVERS
from tests.helpers import POLL_S, eventually
from tests.needs import REDIS_SERVER

REQUESTS, AT_A_TIME = 450, 8
NODE_ENTRIES = 100
"""What a server trims roughly goes by whole blocks of so many entries."""
BOUNDS = {
    f"health:{NODE}": 50,
    f"results:{NODE}": 200,
    "replies:brain": 100,
    "requests:brain": AT_A_TIME,
    f"work:{NODE}": AT_A_TIME,
    "log": 3 * 200,
    "snapshots": 2,
}
"""By configuration, or by what is open at a time; the log below three snapshots' distance."""
SLACK = {"replies:brain": 400, "requests:brain": 200, f"work:{NODE}": 200, "log": 800}
"""What may come between two rounds of house-keeping."""


def tight(config: Config, archive_dir: str) -> Config:
    """Little is kept of anything."""
    retention = structs.replace(
        config.retention,
        health_entries=50,
        results_entries=200,
        replies_entries=100,
        snapshot_events=200,
        log_keep_ms=1,
        archive_dir=archive_dir,
    )
    limits = structs.replace(config.limits, health_ms=10)
    policy = structs.replace(config.policy, dedupe_keep=20)
    return structs.replace(config, retention=retention, limits=limits, policy=policy)


async def highest(bench: Bench, seen: Counter[str]) -> None:
    """Note how long each stream is now, and how many fields of each kind the guard has."""
    for name in BOUNDS:
        seen[name] = max(seen[name], await bench.redis.xlen(bench.prefix + name))
    fields = [name.decode() for name in await bench.redis.hkeys(f"{bench.prefix}guard")]
    for kind in (CURSOR, RELAYED):
        seen[kind] = max(seen[kind], sum(name.startswith(kind) for name in fields))


@asynccontextmanager
async def loaded(bench: Bench) -> AsyncIterator[tuple[Counter[str], dict[str, int]]]:
    """Router and agent, after requests in number; the highest lengths that were seen meanwhile, and how
    much was ever added."""
    seen: Counter[str] = Counter()
    turns = asyncio.Semaphore(AT_A_TIME)
    async with routing(bench.config), running(bench.config):
        async with AsyncClient(bench.url, prefix=bench.prefix) as client:

            async def ask() -> None:
                async with turns:
                    async for _ in client.stream(MODEL, "question", options={"num_predict": 20}):
                        pass

            asking = [asyncio.create_task(ask()) for _ in range(REQUESTS)]
            while not all(task.done() for task in asking):
                await highest(bench, seen)
                await asyncio.wait(asking, timeout=POLL_S)
            await asyncio.gather(*asking)
        infos = {name: await bench.redis.xinfo_stream(bench.prefix + name) for name in BOUNDS if seen[name]}
        yield seen, {name: info["entries-added"] for name, info in infos.items()}


def over(seen: Counter[str]) -> list[str]:
    """Streams that were longer than they may be."""
    return [
        name for name, bound in BOUNDS.items() if seen[name] > bound + SLACK.get(name, 0) + NODE_ENTRIES
    ]


@asynccontextmanager
async def grid(kind: str, home: Path, prefix: str, archive_dir: str = "") -> AsyncIterator[Bench]:
    """A server, and a grid to be run on it with little retention, whose node answers at once."""
    binary = Path(str(REDIS_SERVER)) if kind == "redis" else None
    with EmbeddedServer(home / "data", binary=binary) as server:
        async with serve(structs.replace(QUICK, slots=AT_A_TIME)) as node:
            bench = Bench(server.url, prefix, node)
            bench.config = tight(parse(toml(server.url, prefix, node.url)), archive_dir)
            yield bench
            await bench.redis.aclose()


@pytest.mark.parametrize("kind", SERVERS)
async def test_every_stream_keeps_within_its_retention(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Far more is written to each stream than it may hold, and none is ever longer than that, as a round
    comes after so many events; the guard has a cursor for each input and a last token for each open
    attempt, and none afterwards."""
    monkeypatch.setattr(apps, "KEEP_EVERY_S", 1e9)
    monkeypatch.setattr(apps, "KEEP_EVERY_EVENTS", 100)
    async with grid(kind, tmp_path, prefix) as bench, loaded(bench) as (seen, added):
        assert over(seen) == [], seen
        for name, bound in BOUNDS.items():
            assert added[name] > bound, f"{name} was never full: {added[name]}"
        assert seen[CURSOR] <= 2 * len(bench.config.nodes) + len(bench.config.clients)
        assert seen[RELAYED] <= AT_A_TIME

        async def ended() -> bool:
            after: Counter[str] = Counter()
            await highest(bench, after)
            return after[RELAYED] == 0

        await eventually(ended, "no last token is kept")


@pytest.mark.everything
async def test_without_house_keeping_streams_grow(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a router that never trims; what it trims elsewhere is then longer than it may be."""
    monkeypatch.setattr(apps, "KEEP_EVERY_S", 1e9)
    monkeypatch.setattr(apps, "KEEP_EVERY_EVENTS", 10**9)
    async with grid("valkey", tmp_path, prefix) as bench, loaded(bench) as (seen, _):
        pass
    assert set(over(seen)) >= {"log", "replies:brain", "requests:brain", f"work:{NODE}"}


@pytest.mark.everything
async def test_under_load_nothing_is_trimmed_that_is_not_archived(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an archive the log keeps within its retention all the same, and the archive, which begins at
    position 1, and what is left of the log give the state that the log alone gives."""
    monkeypatch.setattr(apps, "KEEP_EVERY_S", 0.1)
    folder = tmp_path / "archive"
    async with grid("valkey", tmp_path, prefix, str(folder)) as bench:
        async with loaded(bench) as (seen, added):
            assert over(seen) == [], seen
            assert added["log"] > seen["log"]
        store = RedisLog(bench.redis, prefix)
        source = FileSource(folder)
        state = await source.state_at((await source.bounds())[1])
        assert state.grid.position >= await store.first_position() - 1 > 0
        end = await store.last_position()
        await extend(store, state, end)
        live = await load(store, end)
        assert encode_grid(state.grid) == encode_grid(live.grid)
        assert state.digest == live.digest
        assert segments(folder)[0].first == 1
