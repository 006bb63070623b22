"""Whoever holds a role's password and means harm damages what that role writes, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs
from redis.exceptions import RedisError

from orion_streams import AsyncClient, wire
from orion_streams import events as ev
from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.connection import connect
from orion_streams.intake import Entry, Taken, take
from orion_streams.log import RedisLog
from orion_streams.simulation.grid import EMBEDDER, GEMMA
from orion_streams.state import Grid, decode_grid, encode_grid
from tests.contract.test_bad_input import REJECTED
from tests.helpers import (
    MODEL,
    TERMINAL_REPLIES,
    Agent,
    Run,
    Store,
    ask,
    assert_consistent,
    eventually,
    kinds,
    replies,
    settle,
)
from tests.security.grids import GuardedGrid

MASTER, WORKER = "orion-master", "orion-worker"
HIGHEST = "18446744073709551615-18446744073709551615"
HIGHEST_TOLD = "9999999999999999999-9999999999999999999"
"""The highest id that a head may name."""


class Victim:
    """A request of the Brain that runs on the master while the worker's agent is somebody else's."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store, self.router = store, Router(store.log, config)
        self.master, self.hostile = Agent(store, MASTER), Agent(store, WORKER)
        self.run = Run("", 0, "")

    async def begin(self) -> Victim:
        """Both nodes are there; the request is sent to the master and runs."""
        await self.master.beat()
        await self.router.start()
        self.run = await self.asked("mine")
        await self.hostile.beat()
        await settle(self.router)
        return self

    async def asked(self, request_id: str) -> Run:
        """Another request for the master, running there."""
        await ask(self.store, request_id, tier="1")
        await settle(self.router)
        [run] = await self.master.read_work()
        await self.master.say(run, "started")
        await self.master.say(run, "tokens", b"4", seq=1)
        await settle(self.router)
        return run

    async def answered(self, run: Run) -> None:
        """The master's answer, and no other, is the end of it."""
        await self.master.complete(run)
        await settle(self.router)
        request_id = run.request.partition("/")[2]
        told = [row for row in await replies(self.store) if row["id"] == request_id]
        assert [row["kind"] for row in told] == ["token", "done"]
        assert (told[-1]["node"], told[-1]["text"]) == (MASTER, "42")

    def rows(self) -> tuple[object, object]:
        """The request and what its node holds."""
        grid = self.router.state.grid
        return grid.open[self.run.request], grid.nodes[MASTER].holdings


@pytest.mark.parametrize("op", ["started", "tokens", "completed", "failed"])
@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_forged_result_changes_nothing(
    store: Store, config: Config, op: wire.ResultOp, attempt: int
) -> None:
    """Written to its own stream under another node's request, attempt and even fence, whatever it says:
    no reply, no change of the request or of the node, and the true answer counts."""
    victim = await Victim(store, config).begin()
    before, told = victim.rows(), await replies(store)
    forged = structs.replace(victim.run, attempt=attempt)
    await victim.hostile.say(forged, op, b"forged", seq=2, code="broken", blame="request")
    await victim.hostile.say(structs.replace(forged, request=""), op, b"forged", load_ms=2**36)
    await settle(victim.router)
    assert (victim.rows(), await replies(store)) == (before, told)
    await victim.answered(victim.run)
    await assert_consistent(store)


async def test_without_the_owners_check_the_forged_answer_would_count(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a router that trusts what an entry says of its node passes the forged answer on."""

    def trusting(grid: Grid, entry: Entry, *more: Any) -> Taken:
        return take(grid, structs.replace(entry, owner=MASTER), *more)

    victim = await Victim(store, config).begin()
    monkeypatch.setattr("orion_streams.draft.take", trusting)
    await victim.hostile.say(victim.run, "completed", b"forged")
    await settle(victim.router)
    assert [row["text"] for row in await replies(store)] == ["4", "forged"]


ABSURD: dict[str, dict[str, Any]] = {
    "colder than anything": {"temp_mc": -100_000},
    "hotter than anything": {"temp_mc": 500_000},
    "no temperature": {"temp_mc": None},
    "no memory": {"ram_total_mb": 1, "ram_used_mb": 2**53},
    "endless memory": {"ram_total_mb": 2**40, "ram_used_mb": 0},
    "the end of time": {"sampled_ms": 2**53},
    "a model that fits nowhere": {"inventory": (wire.InstalledModel(MODEL, "d", 2**30),)},
    "a thousand models": {
        "inventory": tuple(wire.InstalledModel(f"m{n}:1b", "d", 2**30) for n in range(1000)),
        "inventory_digest": "x" * 256,
    },
    "everything in memory": {
        "resident": tuple(wire.ResidentModel(f"m{n}:1b", "d", 2**30, 2**53) for n in range(64))
    },
    "others' work in hand": {"in_hand": (HIGHEST_TOLD, *(f"{n}-0" for n in range(255)))},
    "all work read": {"work_read": HIGHEST_TOLD, "results_written": HIGHEST_TOLD},
}


@pytest.mark.parametrize("which", ABSURD)
async def test_an_absurd_health_entry_harms_nobody_else(store: Store, config: Config, which: str) -> None:
    """Twice, then a calm one: others' running requests and new ones are answered, the log replays, and the
    grid still fits into a snapshot."""
    victim = await Victim(store, config).begin()
    for beat in (ABSURD[which], ABSURD[which], {}):
        await victim.hostile.beat(**beat)
        await settle(victim.router)
        assert encode_grid(decode_grid(encode_grid(victim.router.state.grid)))
    await victim.router.retention.keep(victim.router.state, victim.router.guard)
    await victim.answered(victim.run)
    await victim.answered(await victim.asked("next"))
    await assert_consistent(store)


GARBAGE: tuple[dict[Any, Any], ...] = (
    {"head": ""},
    {"head": b"\xff\xfe\x00"},
    {"head": "[" * 100_000},
    {"head": '{"op":"tokens"'},
    {"head": '{"op":"completed","request":"brain/mine","attempt":' + "9" * 400 + "}"},
    {b"\xff": b"\xff"},
    {"nothing": "here"},
)


@pytest.mark.parametrize("stream", ["health", "results"])
async def test_garbage_of_an_agent_is_passed(store: Store, config: Config, stream: str) -> None:
    """Each entry becomes one event; others' requests are answered."""
    victim = await Victim(store, config).begin()
    for fields in GARBAGE * 20:
        await store.add(f"{stream}:{WORKER}", fields)
    await settle(victim.router)
    await victim.answered(victim.run)
    rejected = Counter(e.code for e in await assert_consistent(store) if isinstance(e, ev.InputRejected))
    assert rejected == {"unreadable": 20 * len(GARBAGE)}


@pytest.mark.parametrize(
    ("op", "rejected"), [("completed", 1), ("failed", 1), ("started", 1), ("tokens", 0)]
)
async def test_an_agents_entry_is_bounded(
    store: Store, config: Config, op: wire.ResultOp, rejected: int
) -> None:
    """More than an answer may have is passed on to nobody, not even of the agent's own attempt; the rest
    of the attempt counts. Health is bounded, too."""
    limits = structs.replace(config.limits, entry_max_bytes=2_000, answer_max_bytes=1_000)
    agent = Agent(store, WORKER)
    await agent.beat()
    router = Router(store.log, structs.replace(config, limits=limits))
    await router.start()
    await ask(store, "mine")
    await settle(router)
    [run] = await agent.read_work()
    await agent.say(run, op, b"x" * 3_000, seq=1)
    await store.add(f"health:{WORKER}", {"head": b" " * 3_001})
    await settle(router)
    assert await kinds(store, "mine") == []
    await agent.say(run, "tokens", b"4", seq=1)
    await agent.complete(run, b"x" * 2_000)
    await settle(router)
    assert await kinds(store, "mine") == ["token", "done"]
    codes = [e.code for e in await assert_consistent(store) if isinstance(e, ev.InputRejected)]
    assert codes == ["too_large"] * (1 + rejected)


@pytest.mark.parametrize("stream", [f"health:{WORKER}", f"results:{WORKER}", "requests:cli"])
async def test_the_highest_id_ends_only_its_own_stream(store: Store, config: Config, stream: str) -> None:
    """After it nobody can add to that stream, by the server's own rule; the others are read on, also by
    a router that starts anew."""
    victim = await Victim(store, config).begin()
    for entry_id in ("9999999999999999-0", HIGHEST):
        fields = {"id": entry_id, "model": MODEL, "prompt": "p"}
        await store.add(stream, fields if stream.startswith("requests") else {"head": "x"}, entry_id)
        await settle(victim.router)
    victim.router = Router(store.another(), victim.router.config)
    await victim.router.start()
    await victim.router.retention.keep(victim.router.state, victim.router.guard)
    await victim.answered(victim.run)
    await assert_consistent(store, ("brain", "cli"))


async def ask_all(grid: GuardedGrid, ids: list[str]) -> None:
    """Requests of the gateway, for the model that only the master has: each is answered."""
    async with AsyncClient(grid.url("orion-client-gateway"), "gateway") as client:
        answers = [client.embed(EMBEDDER.name, [each], id=each, timeout_s=60) for each in ids]
        for answer in await asyncio.gather(*answers):
            assert answer.node == MASTER


async def ends(grid: GuardedGrid, client: str) -> Counter[bytes]:
    """The terminal replies of each id."""
    admin: Any = connect(grid.admin_url)
    rows = await admin.xrange(f"orion:replies:{client}")
    await admin.aclose()
    return Counter(row[b"id"] for _, row in rows if row[b"kind"].decode() in TERMINAL_REPLIES)


async def limit_entries(grid: GuardedGrid) -> None:
    """As docs/SECURITY.md advises: the server takes no larger ones."""
    admin: Any = connect(grid.admin_url)
    await admin.config_set("proto-max-bulk-len", "16mb")
    await admin.aclose()


async def test_a_hostile_brain_damages_only_its_own_streams(tmp_path: Path) -> None:
    """A flood, megabytes, everything malformed, absurd ids, its own stream wiped under its open requests:
    the gateway is answered before, amid and after, once each, by the same router process."""
    async with GuardedGrid("valkey", tmp_path) as grid:
        assert grid.router is not None
        pid = grid.router.pid
        await ask_all(grid, ["before"])
        brain: Any = connect(grid.url("orion-client-brain"))
        own = "orion:requests:brain"
        for number in range(300):
            await brain.xadd(own, {"id": f"q{number}", "model": GEMMA.name, "prompt": "x", "priority": "9"})
        amid = asyncio.create_task(ask_all(grid, [f"amid{number}" for number in range(10)]))
        for fields, _ in REJECTED.values():
            await brain.xadd(own, fields)
        await brain.xadd(own, {"id": "huge", "model": GEMMA.name, "prompt": b"x" * 20_000_000})
        await brain.xadd(
            own, {"id": "wiped", "model": GEMMA.name, "prompt": "x"}, maxlen=0, approximate=False
        )
        for number in range(300):
            await brain.xadd(own, {"cancel": f"q{number % 7}"})
        await brain.xadd(own, {"id": "last", "model": GEMMA.name, "prompt": "x"}, id=HIGHEST)
        await amid
        await limit_entries(grid)
        with pytest.raises(RedisError):
            await brain.xadd(own, {"id": "huge", "prompt": b"x" * 20_000_000})
        await ask_all(grid, ["after"])

        async def all_ended() -> bool:
            return len(await ends(grid, "brain")) >= 300

        await eventually(all_ended, "an end of each of its own requests", 60.0)
        assert set((await ends(grid, "brain")).values()) == {1}
        gateway = await ends(grid, "gateway")
        assert gateway == dict.fromkeys((b"before", b"after", *(b"amid%d" % n for n in range(10))), 1)
        assert grid.router.pid == pid
        await brain.aclose()


OWN = (f"orion:health:{WORKER}", f"orion:results:{WORKER}")
FORGED = {"request": "gateway/q1", "attempt": 1, "work_id": "1-0"}


async def harm(mallory: Any, stop: asyncio.Event) -> None:
    """Round after round: clear what is there, then all the harm that an agent can think of."""
    number = 0
    while not stop.is_set():
        for stream in OWN:
            await mallory.xadd(stream, {"head": "x"}, maxlen=0, approximate=False)
            for fields in GARBAGE:
                await mallory.xadd(stream, fields)
        for beat in ABSURD.values():
            head = {"boot": str(number), "sampled_ms": number, "temp_mc": 20_000, "ram_used_mb": 1}
            head |= {"ram_total_mb": 8192, "cpu_permille": 0} | beat
            await mallory.xadd(OWN[0], {"head": msgspec.json.encode(head)})
        for op in ("started", "tokens", "completed", "failed"):
            forged = msgspec.json.encode({"op": op, **FORGED})
            await mallory.xadd(OWN[1], {"head": forged, "text": "forged"})
        large = msgspec.json.encode({"op": "completed", **FORGED})
        await mallory.xadd(OWN[0], {"head": b"x" * 6_000_000})
        await mallory.xadd(OWN[1], {"head": large, "text": b"x" * 6_000_000})
        number += 1


async def test_a_hostile_agent_stops_no_other_node(tmp_path: Path) -> None:
    """In place of the worker's agent, with its password: garbage, absurd health, forged results, megabytes,
    its streams cleared. The master's work goes on under the same router process."""
    wanted = {(kind, code) for kind in ("health", "results") for code in ("unreadable", "too_large")}
    async with GuardedGrid("valkey", tmp_path) as grid:
        assert grid.router is not None
        pid = grid.router.pid
        await grid.kill_agent(WORKER)
        mallory, reader = connect(grid.url(f"orion-agent-{WORKER}")), connect(grid.redis_url)
        stop = asyncio.Event()
        harming = asyncio.create_task(harm(mallory, stop))
        ids = [f"q{number}" for number in range(10)]
        await ask_all(grid, ids)
        await ask_all(grid, ["again"])
        stop.set()
        await harming

        async def all_seen() -> bool:
            told = [ev.decode(raw) for _, raw in await RedisLog(reader, "orion:").events(0, 100_000)]
            rejected = [e for e in told if isinstance(e, ev.InputRejected)]
            return {(e.stream.removesuffix(f":{WORKER}"), e.code) for e in rejected} == wanted

        await eventually(all_seen, "what the router made of it")
        assert await ends(grid, "gateway") == {each.encode(): 1 for each in (*ids, "again")}
        assert grid.router.pid == pid
        await mallory.aclose()
        await reader.aclose()
