"""Whoever holds a role's password and means harm damages what that role writes, and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.model import events as ev
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid
from orion_streams.protocol import agent_entries
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from tests.helpers import MODEL, Agent, Run, Store, ask, assert_consistent, kinds, replies, settle

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
        return grid.open[self.run.request], grid.nodes[MASTER].assignments


@pytest.mark.parametrize("op", ["started", "tokens", "completed", "failed"])
@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_forged_result_changes_nothing(
    store: Store, config: Config, op: agent_entries.ResultOp, attempt: int
) -> None:
    """Under another's request, attempt and fence: no reply, no change, and the true answer counts."""
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

    def trusting(grid: Grid, entry: Entry, **more: Any) -> Taken:
        return take(grid, structs.replace(entry, owner=MASTER), **more)

    victim = await Victim(store, config).begin()
    monkeypatch.setattr("orion_streams.protocol.commit_builder.take", trusting)
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
    "a model that fits nowhere": {"inventory": (agent_entries.InstalledModel(MODEL, "d", 2**30),)},
    "a thousand models": {
        "inventory": tuple(agent_entries.InstalledModel(f"m{n}:1b", "d", 2**30) for n in range(1000)),
        "inventory_digest": "x" * 256,
    },
    "everything in memory": {
        "resident": tuple(agent_entries.ResidentModel(f"m{n}:1b", "d", 2**30, 2**53) for n in range(64))
    },
    "others' work in hand": {"in_hand": (HIGHEST_TOLD, *(f"{n}-0" for n in range(255)))},
    "all work read": {"work_read": HIGHEST_TOLD, "results_written": HIGHEST_TOLD},
}


@pytest.mark.parametrize("which", ABSURD)
async def test_an_absurd_health_entry_harms_nobody_else(store: Store, config: Config, which: str) -> None:
    """Others' requests are answered, the log replays, and the grid still fits into a snapshot."""
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
    store: Store, config: Config, op: agent_entries.ResultOp, rejected: int
) -> None:
    """Too large a piece reaches nobody, the rest of the attempt counts; health is bounded, too."""
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
    """Nobody can add to that stream; the others are read on, also by a router that starts anew."""
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
