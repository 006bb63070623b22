"""The table of a process that only reads: folded now and then, or at once for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from orion_streams.agents import grid_follower
from orion_streams.agents.grid_follower import GridFollower, LogListener
from orion_streams.eventlog.loader import load, take_snapshot
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.protocol.public_row import SILENT_MS, PublicRow
from orion_streams.runtime.connection import connect
from tests.contract.contract_grid import MODEL, connected, stop
from tests.helpers import eventually


@asynccontextmanager
async def following(url: str, prefix: str, *listeners: LogListener) -> AsyncIterator[GridFollower]:
    """A follower that runs while the block does."""
    redis: Any = connect(url)
    follower = GridFollower(redis, prefix, listeners=listeners)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        await stop([task])
        await redis.aclose()


async def test_who_asks_sees_what_came_while_it_rests(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fold it rests, and knows nothing newer; `fresh` folds what the log holds by then."""
    monkeypatch.setattr(grid_follower, "REST_S", 3_600.0)
    async with following(valkey_url, prefix) as follower:
        await follower.loaded.wait()  # of an empty log
        async with connected(valkey_url, prefix) as (_, client):
            while not follower.folded.position:  # its look at the router is news as well
                await follower.news()
            await client.generate(MODEL, "Why?", id="later")
            assert follower.folded.find_closed("brain/later") is None
            await follower.fresh()
            assert follower.folded.find_closed("brain/later") is not None


async def test_a_commit_is_a_sign_of_the_router(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a log it is silent; what it commits shows that it is there, before the next look at it."""
    monkeypatch.setattr(grid_follower, "LOOK_EVERY_S", 3_600.0)
    async with following(valkey_url, prefix) as follower:
        await follower.loaded.wait()
        assert follower.silent_ms == SILENT_MS + 1
        async with connected(valkey_url, prefix):
            await eventually(lambda: follower.folded.position, "it has committed")
            assert follower.silent_ms <= SILENT_MS


async def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table as it was is better than none: pages answer while the server hangs."""
    monkeypatch.setattr(grid_follower, "FRESH_S", 0.01)

    class Hanging:
        async def xrange(self, *_: object, **__: object) -> None:
            await asyncio.Event().wait()

    follower = GridFollower(Hanging(), "orion:")
    await follower.fresh()
    assert follower.folded.position == 0


DAY_MS = 86_400_000


@pytest.mark.parametrize("step_ms", [DAY_MS, -DAY_MS, 60_000, -60_000])
async def test_a_servers_clock_that_is_put_right_silences_no_router(
    monkeypatch: pytest.MonkeyPatch, step_ms: int
) -> None:
    """A router is silent for as long as time has passed, whatever the server's clock says: one that was
    there just now is not, one that died is after SILENT_MS, also if its last look was by the old clock."""
    passed_s, stepped_ms, looked_ms = 0.0, 0, 0

    def now_ms() -> int:
        return 10 * DAY_MS + round(passed_s * 1000) + stepped_ms

    async def look(*_: object) -> tuple[int, PublicRow]:
        return now_ms(), PublicRow((), 1, looked_ms)

    monkeypatch.setattr(grid_follower, "look", look)
    follower = GridFollower(None, "orion:", clock=lambda: passed_s)
    looked_ms = now_ms()
    await follower._look()
    for step in (step_ms, -step_ms, step_ms):
        passed_s += 0.5
        looked_ms = now_ms()
        passed_s, stepped_ms = passed_s + 0.5, stepped_ms + step
        await follower._look()
        assert follower.silent_ms == 500
        passed_s += 0.5
        looked_ms = now_ms()
        await follower._look()
        assert follower.silent_ms == 0
    stepped_ms -= step_ms
    for _ in range(20):
        passed_s += 1.0
        await follower._look()
    assert follower.silent_ms == 20_000 > SILENT_MS


def is_known(follower: GridFollower, key: str) -> bool:
    """Whether the table has the end of a request."""
    return follower.folded.find_closed(key) is not None


class Ear:
    """Notes what it hears. `position`: where it wants to go on; afterwards the last that it heard."""

    def __init__(self, position: int | None = None) -> None:
        self.position = position
        self.began: list[tuple[int, str]] = []
        self.heard: list[int] = []

    def begin(self, state: LoggedGrid) -> None:
        """Note where it begins."""
        self.position = state.grid.position
        self.began.append((state.grid.position, state.digest.hex()))

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Note the position of an event."""
        self.position = grid.position
        self.heard.append(grid.position)


async def test_a_listener_goes_on_where_it_was(valkey_url: str, prefix: str) -> None:
    """From a position each event is told once and in order, also those of before the follower began; who
    names none begins with the other."""
    async with connected(valkey_url, prefix) as (_, client):
        await client.generate(MODEL, "Why?", id="first")
        async with following(valkey_url, prefix) as follower:
            await follower.loaded.wait()
            await eventually(lambda: follower.folded.find_closed("brain/first"), "the first answer")
            there = follower.folded.position
        await client.generate(MODEL, "Why?", id="second")
        earlier, other = Ear(there // 2), Ear()
        async with following(valkey_url, prefix, earlier, other) as follower:
            await follower.loaded.wait()
            await eventually(lambda: follower.folded.find_closed("brain/second"), "the second answer")
    assert [at for at, _ in earlier.began] == [there // 2]
    assert earlier.heard == list(range(there // 2 + 1, follower.folded.position + 1))
    assert (other.began, other.heard) == (earlier.began, earlier.heard)


async def test_a_listener_of_a_trimmed_log_begins_at_its_end(valkey_url: str, prefix: str) -> None:
    """What the log no longer holds is not told: it hears where it begins."""
    async with connected(valkey_url, prefix) as (_, client):
        await client.generate(MODEL, "Why?", id="first")
    redis: Any = connect(valkey_url)
    store = RedisLog(redis, prefix)
    state = await load(store)
    await store.save_snapshot(take_snapshot(state))
    await redis.xtrim(f"{prefix}log", minid=f"{state.grid.position}-0", approximate=False)
    await redis.aclose()
    ear = Ear(2)
    async with following(valkey_url, prefix, ear) as follower:
        await follower.loaded.wait()
    assert (ear.began, ear.heard) == ([(state.grid.position, state.digest.hex())], [])


async def test_a_listener_that_is_too_far_behind_begins_at_the_end(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that was away for days must not fold them all before it answers; one event less is told."""
    async with connected(valkey_url, prefix) as (_, client):
        await client.generate(MODEL, "Why?", id="first")
    redis: Any = connect(valkey_url)
    end = await RedisLog(redis, prefix).last_position()
    await redis.aclose()
    monkeypatch.setattr(grid_follower, "MOST_BEHIND", 3)
    for behind, told in ((4, 0), (3, 3)):
        ear = Ear(end - behind)
        async with following(valkey_url, prefix, ear) as follower:
            await follower.loaded.wait()
        assert (ear.began[0][0], len(ear.heard)) == (end - told, told)


async def test_a_listener_goes_on_after_an_outage(valkey_url: str, prefix: str) -> None:
    """Its connections are cut again and again: nothing is told twice, and nothing left out."""
    ear = Ear()
    async with (
        connected(valkey_url, prefix) as (_, client),
        following(valkey_url, prefix, ear) as follower,
    ):
        await follower.loaded.wait()
        first = ear.began[0][0]
        for number in range(3):
            await follower._redis.connection_pool.disconnect(inuse_connections=True)
            await client.generate(MODEL, "Why?", id=f"q{number}")
            await eventually(partial(is_known, follower, f"brain/q{number}"), "the answer in the table")
    assert len(ear.began) > 1
    assert ear.heard == list(range(first + 1, follower.folded.position + 1))
