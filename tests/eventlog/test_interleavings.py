"""Random interleavings of clients, agents, faults and two routers, on the log in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config, parse
from orion_streams.eventlog.loader import load
from orion_streams.model import events as ev
from orion_streams.model.snapshot import encode_grid
from tests.conftest import STREAMS_TOML, MemoryStore
from tests.helpers import MODEL, Agent, assert_consistent, folded, kinds, settle

NODES = ("orion-master", "orion-worker", "orion-edge")
IDS = ("q1", "q2", "q3", "q4")

nodes = st.sampled_from(NODES[:2])
index = st.integers(0, 3)
ids = st.sampled_from(IDS)
asked = st.builds(
    lambda request_id, more: {"id": request_id, "model": MODEL, "prompt": "p"} | more,
    ids,
    st.sampled_from(({}, {"deadline_ms": "1500"}, {"deadline_ms": "9000"})),
)
cancelled = st.builds(lambda request_id: {"cancel": request_id}, ids)
malformed = st.builds(lambda request_id: {"id": request_id, "model": MODEL}, ids)
samples = st.sampled_from(
    ({"temp_mc": 50_000}, {"temp_mc": 70_001}, {"temp_mc": 75_001}, {"ram_used_mb": 7400})
)
steps = st.one_of(
    st.tuples(st.just("send"), asked),
    st.tuples(st.just("send"), cancelled),
    st.tuples(st.just("send"), malformed),
    st.tuples(st.just("beat"), st.sampled_from(NODES), samples),
    st.tuples(st.just("work"), nodes),
    st.tuples(st.just("say"), nodes, index, st.sampled_from(("started", "completed", "failed"))),
    st.tuples(st.just("tokens"), nodes, index, st.integers(1, 3)),
    st.tuples(st.just("resend"), nodes, index),
    st.tuples(st.just("crash"), nodes),
    st.tuples(st.just("lose body"), index),
    st.tuples(st.just("skip"), st.sampled_from((10, 700, 2500, 3_600_000))),
    st.tuples(st.just("cycle"), st.integers(0, 1)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
    st.tuples(st.just("follow"), st.integers(0, 1)),
)


def small_config() -> Config:
    """Limits so low that short histories reach them."""
    config = parse(STREAMS_TOML.read_text(encoding="utf-8"))
    policy = structs.replace(
        config.policy,
        max_attempts=3,
        max_open=3,
        max_events=5,
        return_samples=2,
        gone_samples=2,
        attempt_deadline_ms=6000,
        default_deadline_ms=30_000,
        dedupe_keep=2,
    )
    return structs.replace(config, policy=policy, limits=structs.replace(config.limits, batch_entries=3))


class World:
    """Two routers, three agents and a client on one log."""

    def __init__(self) -> None:
        self.store, self.config = MemoryStore("orion:"), small_config()
        self.agents = {name: Agent(self.store, name) for name in NODES}
        self.routers = [Router(self.store.log, self.config) for _ in range(2)]

    async def start(self) -> None:
        for agent in self.agents.values():
            await agent.beat()
        for router in self.routers:
            await router.start()

    async def step(self, step: Any) -> None:
        """One thing that somebody does."""
        match step:
            case ("send", fields):
                await self.store.add("requests:brain", fields)
            case ("beat", node, sample):
                await self.agents[node].beat(**sample)
            case ("work", node):
                await self.agents[node].read_work()
            case ("crash", node):
                self.agents[node].runs.clear()
            case ("lose body", which):
                entries = await self.store.entries("requests:brain")
                if which < len(entries):
                    await self.store.delete("requests:brain", entries[which][0])
            case ("skip", ms):
                self.store.skip(ms)
            case ("cycle", which):
                await self.routers[which].cycle(0)
            case ("restart", which):
                self.routers[which] = Router(self.store.log, self.config)
                await self.routers[which].start()
            case ("follow", which):
                await self.routers[which].follow(0)
            case (what, node, which, *rest):
                await self.speak(self.agents[node], what, which, rest)

    async def speak(self, agent: Agent, what: str, which: int, rest: list[Any]) -> None:
        """An agent says something of a run that it has, or once more what it said before."""
        if what == "resend":
            said = await self.store.entries(f"results:{agent.node}")
            if which < len(said):
                agent.results_written = await self.store.add(f"results:{agent.node}", said[which][1])
            return
        await agent.read_work()
        if not agent.runs:
            return
        run = list(agent.runs.values())[which % len(agent.runs)]
        if what == "tokens":
            await agent.say(run, "tokens", b"t", seq=rest[0])
        elif rest[0] == "completed":
            await agent.complete(run)
        elif rest[0] == "failed":
            await agent.fail(run, blame="request")
        else:
            await agent.say(run, "started")

    async def finish(self) -> None:
        """Everybody is well and works until nothing is open."""
        router = Router(self.store.log, self.config)
        await router.start()
        for _ in range(40):
            self.store.skip(1000)
            for agent in self.agents.values():
                await agent.read_work()
                for run in list(agent.runs.values()):
                    await agent.complete(run)
                await agent.beat()
            await settle(router)
            if not router.state.grid.open:
                break
        assert router.state.grid.open == {}
        assert encode_grid((await folded(self.store.log)).grid) == encode_grid(router.state.grid)
        assert encode_grid((await load(self.store.log)).grid) == encode_grid(router.state.grid)


async def play(script: list[Any]) -> World:
    """Do all steps, then let everything come to its end."""
    world = World()
    await world.start()
    for step in script:
        await world.step(step)
    await world.finish()
    return world


async def assert_promises(world: World) -> None:
    """Every accepted request has one terminal reply; inputs are taken once; the invariants hold."""
    events = await assert_consistent(world.store)
    accepted = [event.request for event in events if isinstance(event, ev.RequestAccepted)]
    for request in IDS:
        told = await kinds(world.store, request)
        ends = [kind for kind in told if kind in ("done", "error", "expired", "cancelled")]
        assert len(ends) == accepted.count(f"brain/{request}")
    sampled = sum(isinstance(event, ev.NodeSampled) for event in events)
    assert sampled == sum(agent.beats for agent in world.agents.values())


@settings(max_examples=250)
@given(st.lists(steps, min_size=5, max_size=70))
def test_every_accepted_request_gets_one_terminal_reply(script: list[Any]) -> None:
    """Whatever order clients, agents, crashes, clocks and two routers take turns in."""

    async def run() -> None:
        await assert_promises(await play(script))

    asyncio.run(run())


@settings(max_examples=60)
@given(st.lists(steps, min_size=5, max_size=60), st.data())
def test_a_restart_at_any_moment_changes_nothing(script: list[Any], data: st.DataObject) -> None:
    """After any step a new router that reads the log has the grid of the one that wrote it."""
    cut = data.draw(st.integers(0, len(script)))

    async def run() -> None:
        world = World()
        await world.start()
        for step in script[:cut]:
            await world.step(step)
        state = await load(world.store.log)
        await settle(world.routers[0])
        await settle(world.routers[1])
        await world.routers[0].recover()
        await world.routers[1].recover()
        grids = {encode_grid(router.state.grid) for router in world.routers}
        assert len(grids) == 1
        assert state.grid.position <= world.routers[0].state.grid.position

    asyncio.run(run())
