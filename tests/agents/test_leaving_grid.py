"""An agent of a whole grid of processes is told to end while it has work; its Ollama is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec import structs

from orion_streams import AsyncClient
from orion_streams.demo.simulated_grid import GEMMA, SimulatedGrid, SimulatedNode, three_nodes
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.gateway.view_models import node_rows
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.runtime.connection import connect
from tests.helpers import WAIT_S, history

MASTER, WORKER = "orion-master", "orion-worker"
NEVER_MS = 3_600_000


def two_nodes() -> list[SimulatedNode]:
    """Two that have the same model; the second one is asked only when the first takes nothing."""
    quick = {"decode_tokens_per_s": 100.0, "prefill_tokens_per_s": 0.0, "disk_mb_per_s": 0.0}
    master, worker, _ = three_nodes()
    first = structs.replace(master.spec, models=(GEMMA,), slots=2, **quick)
    second = structs.replace(worker.spec, models=(GEMMA,), slots=4, **quick)
    return [structs.replace(master, spec=first), structs.replace(worker, spec=second)]


@pytest.fixture
async def grid() -> AsyncIterator[SimulatedGrid]:
    """Silence is noticed after an hour, so whatever happens is not for its sake."""
    policy = {"stale_ms": NEVER_MS, "spill_ms": NEVER_MS, "prefetch": 1, "max_step_ms": 2_000}
    settings = {"policy": policy, "limits": {"drain_ms": 2_000, "health_ms": 100}}
    async with SimulatedGrid(two_nodes(), settings=settings) as started:
        yield started


def holds(name: str, runs: int, started: int) -> Callable[[Grid], bool]:
    """Whether the node was given so many runs, of which so many have begun."""

    def check(seen: Grid) -> bool:
        held = list(seen.nodes[name].assignments.values())
        return len(held) == runs and sum(getattr(each, "started", False) for each in held) == started

    return check


def are_sent(count: int) -> Callable[[Grid], bool]:
    """Whether so many requests were accepted, and none waits at the router."""

    def check(seen: Grid) -> bool:
        ended = sum(len(rows) for rows in seen.closed.values())
        return ended + sum(bool(each.work_id) for each in seen.open.values()) == count

    return check


def is_shown_as(name: str, state: str) -> Callable[[Grid], bool]:
    """Whether `orion nodes` shows the node so."""
    return lambda seen: any((row.node, row.state) == (name, state) for row in node_rows(seen))


async def test_each_request_of_an_agent_that_leaves_has_one_answer(grid: SimulatedGrid) -> None:
    """What runs there, however long, and what waits there: nothing is lost, nothing is answered twice,
    nothing waits for silence, and the node takes work again when its agent is back."""
    async with AsyncClient(grid.redis_url) as client:
        await grid.fault(MASTER, "hang")
        asked = [asyncio.create_task(client.generate(GEMMA.name, "Too long.", tier=1))]
        await grid.wait_for(holds(MASTER, 1, 1), WAIT_S, "the long one runs")
        asked.append(asyncio.create_task(client.generate(GEMMA.name, "Tell me a story.", tier=1)))
        asked.append(asyncio.create_task(client.generate(GEMMA.name, "And another.", tier=1)))
        await grid.wait_for(are_sent(3), WAIT_S, "all three were sent to it")
        assert await grid.agents[MASTER].stop(WAIT_S) == 0
        answers = await asyncio.gather(*asked)
        assert all(each.text for each in answers)
        assert answers[0].node == WORKER
        seen = await grid.wait_for(is_shown_as(MASTER, "left"), WAIT_S, "the node is shown as left")
        assert seen.nodes[MASTER].suspects == ()
        events = await log_of(grid)
        ends = [each.request for each in events if isinstance(each, ev.RequestCompleted)]
        assert len(ends) == len(set(ends)) == 3
        assert [each for each in events if isinstance(each, ev.AttemptAbandoned)] == []
        handed_back = [each.code for each in events if isinstance(each, ev.AttemptFailed)]
        assert set(handed_back) == {"agent_leaving"}
        await grid.start_agent(MASTER)
        await grid.wait_for(is_shown_as(MASTER, "available"), WAIT_S, "the node is back")
        assert (await client.generate(GEMMA.name, "Back?", tier=1)).node == MASTER


async def test_a_killed_agent_says_no_goodbye(grid: SimulatedGrid) -> None:
    """Negative control: after kill -9 nobody knows; the run stays with the node until its agent is back and
    reports it."""
    async with AsyncClient(grid.redis_url) as client:
        await grid.fault(MASTER, "hang")
        asked = asyncio.create_task(client.generate(GEMMA.name, "Too long.", tier=1))
        await grid.wait_for(holds(MASTER, 1, 1), WAIT_S, "the long one runs")
        await grid.kill_agent(MASTER)
        other = await client.generate(GEMMA.name, "Meanwhile.", tier=2)
        assert other.node == WORKER
        assert holds(MASTER, 1, 1)(await grid.wait_for(lambda seen: True, WAIT_S))
        assert not asked.done()
        await grid.start_agent(MASTER)
        assert (await asked).text
        failed = [each.code for each in await log_of(grid) if isinstance(each, ev.AttemptFailed)]
        assert failed == ["agent_restarted"]


async def log_of(grid: SimulatedGrid) -> list[ev.AnyEvent]:
    """All events so far."""
    redis = connect(grid.redis_url)
    try:
        return await history(RedisLog(redis, grid.config.prefix))
    finally:
        await redis.aclose()
