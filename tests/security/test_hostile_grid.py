"""Hostile clients and agents on a grid of real processes, where each has only its own user's rights."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import RedisError

from orion_streams import AsyncClient
from orion_streams.demo.simulated_grid import EMBEDDER, GEMMA
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.runtime.connection import connect
from tests.contract.test_bad_input import REJECTED
from tests.helpers import TERMINAL_REPLIES, eventually
from tests.security.guarded_grids import GuardedGrid
from tests.security.test_hostile import ABSURD, GARBAGE, HIGHEST, MASTER, WORKER


async def ask_all(grid: GuardedGrid, ids: list[str]) -> None:
    """Requests of the gateway, for the model that only the master has: each is answered."""
    async with AsyncClient(grid.url("orion-client-gateway"), "gateway") as client:
        answers = [client.embed(EMBEDDER.name, [each], id=each, timeout_s=60) for each in ids]
        for answer in await asyncio.gather(*answers):
            assert answer.node == MASTER


async def ends(grid: GuardedGrid, client: str) -> Counter[bytes]:
    """The terminal replies of each id."""
    rows = await grid.as_admin("XRANGE", f"orion:replies:{client}", "-", "+")
    return Counter(row[b"id"] for _, row in rows if row[b"kind"].decode() in TERMINAL_REPLIES)


async def test_a_hostile_brain_damages_only_its_own_streams(tmp_path: Path) -> None:
    """Flood, megabytes, malformed, absurd ids, wiped: the gateway has its answers, by the same router."""
    async with GuardedGrid("valkey", tmp_path) as grid:
        [leader] = grid.routers
        pid = leader.pid
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
        await grid.as_admin("CONFIG", "SET", "proto-max-bulk-len", "16mb")  # as docs/SECURITY.md advises
        with pytest.raises(RedisError):
            await brain.xadd(own, {"id": "huge", "prompt": b"x" * 20_000_000})
        await ask_all(grid, ["after"])

        async def all_ended() -> bool:
            return len(await ends(grid, "brain")) >= 300

        await eventually(all_ended, "an end of each of its own requests")
        assert set((await ends(grid, "brain")).values()) == {1}
        gateway = await ends(grid, "gateway")
        assert gateway == dict.fromkeys((b"before", b"after", *(b"amid%d" % n for n in range(10))), 1)
        assert leader.pid == pid
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


@pytest.mark.everything  # a quick run has tests/security/test_hostile.py
async def test_a_hostile_agent_stops_no_other_node(tmp_path: Path) -> None:
    """Garbage, absurd health, forged results, cleared streams: the master works, under the same router."""
    wanted = {(kind, code) for kind in ("health", "results") for code in ("unreadable", "too_large")}
    async with GuardedGrid("valkey", tmp_path) as grid:
        [leader] = grid.routers
        pid = leader.pid
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
            told = [
                event_codec.decode(raw) for _, raw in await RedisLog(reader, "orion:").events(0, 100_000)
            ]
            rejected = [e for e in told if isinstance(e, ev.InputRejected)]
            return {(e.stream.removesuffix(f":{WORKER}"), e.code) for e in rejected} == wanted

        await eventually(all_seen, "what the router made of it")
        assert await ends(grid, "gateway") == {each.encode(): 1 for each in (*ids, "again")}
        assert leader.pid == pid
        await mallory.aclose()
        await reader.aclose()
