"""The caller of an AsyncClient is cancelled at every await: nothing hangs, nothing is left, and its request
is cancelled at the grid, or over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from orion_streams.client.streams_client import AsyncClient
from orion_streams.protocol.agent_entries import decode_work
from orion_streams.runtime.faust_redis import App
from tests.crash.crash_roles import MODEL, NODE
from tests.crash.life import Life, Plan
from tests.crash.mortal import Mortal, mortality
from tests.helpers import WAIT_S, eventually, replies

FEWEST_POINTS, ENOUGH = 8, 3
Ask = Callable[[AsyncClient], Awaitable[None]]


async def generate(client: AsyncClient) -> None:
    """Wait for the whole answer."""
    await client.generate(MODEL, "say three words")


async def stream(client: AsyncClient) -> None:
    """Take an answer piece by piece."""
    async for _ in client.stream(MODEL, "say three words"):
        pass


async def cancelled_at(life: Life, ask: Ask, at: int) -> bool:
    """Cancel the caller at its await number `at`. Return whether there was one."""
    caller = Mortal(at)
    before = asyncio.all_tasks()
    async with AsyncClient(life.url, prefix=life.config.prefix) as client:

        async def call() -> None:
            await ask(client)

        task = caller.start(call())
        caller.strike = task.cancel
        done, _ = await asyncio.wait({task}, timeout=WAIT_S)
        assert done, f"the caller goes on after a cancel at await {at}"
        assert task.cancelled() or task.exception() is None
        assert task.cancelled() == caller.struck.is_set()
    own = life.router.tasks | life.agent.tasks
    left = asyncio.all_tasks() - before - own
    assert not left, f"tasks left after a cancel at await {at}: {left}"
    await eventually(life.idles, f"rest after a cancel at await {at}")
    return caller.struck.is_set()


@pytest.mark.parametrize("ask", [generate, stream])
async def test_a_cancelled_caller_leaves_nothing_behind(
    exact_url: str, app: App, prefix: str, ask: Ask
) -> None:
    """At await 1, 2, 3 … until calls end unharmed: the caller ends as cancelled, the client closes, no task
    is left, no request stays open, none has two ends, and one that was cancelled frees its node."""
    life = Life(exact_url, prefix, Plan("answered"), app)
    with mortality():
        life.start_router()
        life.start_agent()
        points = unharmed = 0
        for at in count(1):
            struck = await cancelled_at(life, ask, at)
            points, unharmed = points + struck, 0 if struck else unharmed + 1
            if unharmed == ENOUGH:
                break
        kinds: dict[str, list[str]] = {}
        for row in await replies(life.store):
            if row["kind"] in ("done", "error", "expired", "cancelled"):
                kinds.setdefault(row["id"], []).append(row["kind"])
        work = [decode_work(f[b"head"]).op for _, f in await life.store.entries(f"work:{NODE}")]
        await life.close()
    print(f"\n{points} awaits of {ask.__name__}: {len(kinds)} requests reached the grid")
    assert points > FEWEST_POINTS
    assert all(len(ends) == 1 for ends in kinds.values()), kinds
    assert {ends[0] for ends in kinds.values()} == {"done", "cancelled"}
    assert "cancel" in work
