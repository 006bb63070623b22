"""The table of a process that only reads: folded now and then, or at once for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orion_streams.agents import grid_follower
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.protocol.public_row import SILENT_MS
from orion_streams.runtime.connection import connect
from tests.contract.contract_grid import MODEL, connected, stop
from tests.helpers import eventually


@asynccontextmanager
async def following(url: str, prefix: str) -> AsyncIterator[GridFollower]:
    """A follower that runs while the block does."""
    redis: Any = connect(url)
    follower = GridFollower(redis, prefix)
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
