"""Each machine of a grid of processes is rebooted in turn while requests come; its Ollama is simulated."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from orion_streams import Answer, AsyncClient
from orion_streams.demo.simulated_grid import GEMMA, SimulatedGrid
from orion_streams.gateway.view_models import node_rows
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from tests.agents.test_leaving_grid import MASTER, NEVER_MS, WORKER, log_of, two_nodes
from tests.helpers import WAIT_S

LONG_MS = 120_000
USERS = 3
Check = Callable[[Grid], bool]


@pytest.fixture
async def grid() -> AsyncIterator[SimulatedGrid]:
    """What runs may end, however busy this machine is; silence is noticed soon."""
    settings = {
        "policy": {"spill_ms": NEVER_MS, "max_step_ms": 2_000, "stale_ms": 20_000},
        "limits": {"drain_ms": LONG_MS, "health_ms": 500},
    }
    async with SimulatedGrid(two_nodes(), settings=settings) as started:
        yield started


class Users:
    """Users who ask one question after the other, until they are told to stop."""

    def __init__(self, client: AsyncClient) -> None:
        self.answers: list[Answer] = []
        self._client, self._stopping = client, False
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(USERS)]

    async def _ask(self, number: int) -> None:
        while not self._stopping:
            options = {"num_predict": 100, "temperature": 0}
            prompt = f"What of {number}?"
            self.answers.append(
                await self._client.generate(GEMMA.name, prompt, options=options, tier=1 + number % 2)
            )

    async def stop(self) -> None:
        """Let all have their last answer."""
        self._stopping = True
        await asyncio.gather(*self._tasks)


def holds_nothing(name: str) -> Check:
    """Whether a node was handed nothing that has not ended."""
    return lambda seen: not seen.nodes[name].assignments


def holds_a_run(name: str) -> Check:
    """Whether something runs there."""
    return lambda seen: any(
        getattr(each, "started", False) for each in seen.nodes[name].assignments.values()
    )


def is_heard_anew(name: str, boot: str) -> Check:
    """Whether another agent of this node is heard, and its Ollama answers."""

    def check(seen: Grid) -> bool:
        row = seen.nodes[name]
        return row.boot != boot and not row.left and row.inventory_known

    return check


def is_available(name: str) -> Check:
    """Whether the node takes requests."""
    return lambda seen: any((row.node, row.state) == (name, "available") for row in node_rows(seen))


async def reboot(grid: SimulatedGrid, name: str) -> None:
    """As systemd does: the agent is told to end, Ollama ends; both start again."""
    seen = await grid.wait_for(lambda _: True, WAIT_S)
    await grid.agents[name].stop(WAIT_S)
    await grid.ollamas[name].stop()
    await grid.start_ollama(name)
    await grid.start_agent(name)
    await grid.wait_for(is_heard_anew(name, seen.nodes[name].boot), WAIT_S, f"{name} is back")


async def test_a_reboot_in_turn_loses_nothing_and_repeats_nothing(grid: SimulatedGrid) -> None:
    """Drained before: every request is answered once, begins once, and nothing failed; each node answers
    again afterwards. No node was silent to anybody meanwhile."""
    async with AsyncClient(grid.redis_url) as client, AsyncClient(grid.redis_url, "owner") as operator:
        users = Users(client)
        for name in (MASTER, WORKER):
            await grid.wait_for(holds_a_run(name), WAIT_S, f"work on {name}")
            await operator.drain(name, LONG_MS)
            await grid.wait_for(holds_nothing(name), WAIT_S, f"{name} has nothing in hand")
            await reboot(grid, name)
            await operator.resume(name)
            await grid.wait_for(is_available(name), WAIT_S, f"{name} is available")
            await grid.wait_for(holds_a_run(name), WAIT_S, f"work on {name} again")
        await users.stop()
        assert all(each.text for each in users.answers)
        events = await log_of(grid)
    begun = Counter(each.request for each in events if isinstance(each, ev.RequestStarted))
    done = Counter(each.request for each in events if isinstance(each, ev.RequestCompleted))
    assert set(begun.values()) == set(done.values()) == {1}
    assert len(done) == len(users.answers)
    assert not [each for each in events if isinstance(each, ev.AttemptFailed)]
    assert {each.reason for each in events if isinstance(each, ev.AttemptAbandoned)} <= {"drained"}
    assert not [each for each in events if isinstance(each, ev.BreakerOpened)]


async def test_a_reboot_without_a_drain_repeats_what_ran(grid: SimulatedGrid) -> None:
    """Negative control: the power is cut in the middle of an answer, which is then generated again."""
    async with AsyncClient(grid.redis_url) as client:
        await grid.fault(MASTER, "hang")
        asked = asyncio.create_task(client.generate(GEMMA.name, "Too long.", tier=1))
        seen = await grid.wait_for(
            lambda seen: any(row.started for row in seen.open.values()), WAIT_S, "a run"
        )
        [name] = [row.node for row in seen.open.values()]
        assert name == MASTER
        await grid.kill_agent(name)
        await grid.start_agent(name)
        assert (await asked).text
        events = await log_of(grid)
    begun = Counter(each.request for each in events if isinstance(each, ev.RequestStarted))
    assert set(begun.values()) == {2}
