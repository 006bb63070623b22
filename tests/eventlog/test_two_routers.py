"""Two routers on one log: nothing twice, and the loser goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.port import Log
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import Guard
from orion_streams.model.snapshot import encode_grid
from tests.eventlog.driving import MASTER, WORKER, another, dispatch, running
from tests.helpers import (
    Agent,
    Store,
    ask,
    assert_consistent,
    assert_replays,
    dispatched,
    expected_next,
    folded,
    history,
    make_commit,
    settle,
)


async def test_a_new_router_folds_to_the_same_grid(store: Store, config: Config) -> None:
    """Whoever starts from the log alone has, byte for byte, the grid of the one that wrote it."""
    agent, other = Agent(store, WORKER), Agent(store, MASTER)
    router = await running(store, config, agent, other)
    await agent.fail(await dispatch(store, router, agent, "q1"))
    await settle(router)
    await store.add("requests:brain", {"cancel": "q1"})
    await store.add("requests:brain", {"id": "bad"})
    await agent.beat(temp_mc=80_000)
    await settle(router)
    for state in (await load(store.another()), await folded(store.log)):
        assert encode_grid(state.grid) == encode_grid(router.state.grid)
        assert state.digest == router.state.digest
    restarted = await another(store, config)
    assert encode_grid(restarted.state.grid) == encode_grid(router.state.grid)
    assert restarted.guard == router.guard == await store.log.guard()


async def test_two_routers_do_nothing_twice(store: Store, config: Config) -> None:
    """Two routers that work at the same time lose commits to each other, and nothing happens twice."""
    agents = [Agent(store, WORKER), Agent(store, MASTER)]
    first = await running(store, config, *agents)
    second = await another(store, config)
    for n in range(12):
        await ask(store, f"q{n}")
        await asyncio.gather(first.cycle(0), second.cycle(0))
        for agent in agents:
            for run in await agent.read_work():
                await agent.say(run, "tokens", b"4", seq=1)
                await agent.say(run, "tokens", b"2", seq=2)
        await asyncio.gather(second.cycle(0), first.cycle(0))
        for agent in agents:
            for run in list(agent.runs.values()):
                await agent.complete(run)
            await agent.beat()
    while any(await asyncio.gather(first.cycle(0), second.cycle(0))):
        for agent in agents:
            for run in await agent.read_work():
                await agent.complete(run)
    events = await assert_consistent(store)
    done = [event for event in events if isinstance(event, ev.RequestCompleted)]
    assert sorted(event.request for event in done) == sorted(f"brain/q{n}" for n in range(12))
    sampled = sum(isinstance(event, ev.NodeSampled) for event in events)
    assert sampled == sum(agent.beats for agent in agents)


async def test_the_loser_folds_again_and_goes_on(store: Store, config: Config) -> None:
    """A router that lost a commit has the winner's grid, and its next commit is written."""
    agent = Agent(store, WORKER)
    first = await running(store, config, agent)
    second = await another(store, config)
    await agent.beat()
    assert await first.cycle(0)
    assert await second.cycle(0)
    assert encode_grid(second.state.grid) == encode_grid(first.state.grid)
    position = second.state.grid.position
    await agent.beat()
    assert await second.cycle(0)
    assert await store.log.last_position() > position
    await assert_consistent(store)


async def test_a_follower_takes_over_when_the_leader_stands_still(store: Store, config: Config) -> None:
    """Who lost often enough only follows; it leads again once inputs wait and nothing is committed."""
    agent = Agent(store, WORKER)
    leader = await running(store, config, agent)
    second = await another(store, config)
    for _ in range(config.limits.lose_before_following):
        assert not second.following
        await agent.beat()
        await leader.cycle(0)
        await second.cycle(0)
    assert second.following
    await agent.beat()
    await leader.cycle(0)
    await second.follow(1)
    assert second.following
    assert encode_grid(second.state.grid) == encode_grid(leader.state.grid)
    await second.follow(1)
    assert second.following
    await ask(store, "q1")
    await second.follow(1)
    assert not second.following
    await settle(second)
    assert len(await dispatched(store)) == 1
    await leader.cycle(0)
    assert encode_grid(second.state.grid) == encode_grid(leader.state.grid)
    await assert_consistent(store)


async def test_a_slept_through_rewritten_tail_is_noticed(store: Store, config: Config) -> None:
    """The server lost its tail and another router wrote a new one: who slept meanwhile writes nothing."""
    agent = Agent(store, WORKER)
    sleeper = await running(store, config, agent)
    before = await store.dump()
    await agent.beat()
    await sleeper.cycle(0)
    slept_at = await expected_next(store.log)
    await store.restore(before)
    await agent.beat(temp_mc=60_000)
    other = await another(store, config)
    now_at = await expected_next(store.log)
    assert (now_at.number, now_at.position) == (slept_at.number, slept_at.position)
    position = await store.log.last_position()
    await ask(store, "q1")
    await sleeper.cycle(0)
    assert await store.log.last_position() == position
    assert encode_grid(sleeper.state.grid) == encode_grid(other.state.grid)
    await settle(sleeper)
    assert len(await dispatched(store)) == 1
    await assert_consistent(store)


async def test_a_foreign_commit_is_folded_too(store: Store, config: Config) -> None:
    """A router that only reads the log follows what another committed, event by event."""
    router = await running(store, config)
    head = await expected_next(store.log)
    foreign = ev.Committed(head.number + 1, 5, 0, False, router.state.digest.hex())
    await store.log.commit(make_commit(head, events=(event_codec.encode(foreign),)))
    await router.follow(1)
    assert router.state.grid.number == head.number + 1
    assert router.guard == await store.log.guard()
    assert assert_replays(await history(store.log)) == 0


class Overtaken:
    """A store on which another router gets ahead right before the guard is read for the first time."""

    def __init__(self, log: Log, meanwhile: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._log, self._meanwhile = log, [meanwhile]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def guard(self) -> Guard:
        while self._meanwhile:
            await self._meanwhile.pop()()
        return await self._log.guard()


async def test_the_grid_is_not_older_than_the_guard(store: Store, config: Config) -> None:
    """What another router takes while this one folds to the end is in its grid, too: it trims requests
    below the guard's cursors, and must know those that are open."""
    agent = Agent(store, WORKER)
    first = await running(store, config, agent)
    await ask(store, "q1", model="nobody-known:1b")
    overtaken: Any = Overtaken(store.another(), lambda: settle(first))
    second = Router(overtaken, config)
    await second.recover()
    assert list(second.state.grid.open) == ["brain/q1"]
    await second.retention.keep(second.state, second.guard)
    assert len(await store.entries("requests:brain")) == 1


async def test_two_routers_begin_a_grid_at_once(store: Store, config: Config) -> None:
    """A router that found an empty log, and then a guard that another one had just made, goes on."""
    first = Router(store.log, config)
    overtaken: Any = Overtaken(store.another(), first.start)
    second = Router(overtaken, config)
    await second.start()
    assert encode_grid(second.state.grid) == encode_grid(first.state.grid)


async def test_a_follower_that_slept_through_a_lost_tail_goes_on(store: Store, config: Config) -> None:
    """A follower whose log was rewritten behind its back folds it anew, as one that starts would."""
    agent = Agent(store, WORKER)
    first = await running(store, config, agent)
    kept = await store.dump()
    await agent.beat()
    await settle(first)
    follower = await another(store, config)
    await store.restore(kept)
    again = await another(store, config)
    for _ in range(2):
        store.skip(500)
        await agent.beat(temp_mc=60_000)
        await settle(again)
    await follower.follow(block_ms=0)
    assert encode_grid(follower.state.grid) == encode_grid(again.state.grid)
    assert follower.state.digest == again.state.digest
