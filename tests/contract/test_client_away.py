"""The Brain's client while the server is away for long: it keeps its requests, and each gets one answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from orion_streams import AsyncClient
from orion_streams.client import streams_client
from orion_streams.demo.ollama import serve
from orion_streams.errors import BackendError
from orion_streams.runtime import backoff
from orion_streams.runtime.embedded_server import EmbeddedServer, free_port
from tests.agents.agent_bench import MODEL, QUICK, Bench, limited, routing, running
from tests.helpers import eventually

MANY = 8


async def test_requests_outlive_a_server_that_is_away(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before the kill or after it: all are kept, and each has one end under its own id."""
    monkeypatch.setattr(streams_client, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(backoff, "LONGEST_S", 0.1)
    slow = structs.replace(QUICK, decode_tokens_per_s=100.0)
    with EmbeddedServer(tmp_path / "data", fsync="always") as server:
        async with serve(slow) as node:
            bench = Bench(server.url, prefix, node)
            bench.config = limited(bench.config, slots=4)
            async with (
                routing(bench.config),
                running(bench.config),
                AsyncClient(server.url, prefix=prefix) as brain,
            ):
                before = [asyncio.create_task(brain.generate(MODEL, f"{n}", id=f"b{n}")) for n in range(4)]

                async def asked() -> bool:
                    return len(await bench.redis.xrange(f"{prefix}requests:brain")) == 4

                await eventually(asked, "that all are sent")
                server.kill()
                short: Any = {"options": {"num_predict": 2}}
                while_away = [
                    asyncio.create_task(brain.generate(MODEL, f"{n}", id=f"w{n}", **short))
                    for n in range(20)
                ]
                await eventually(lambda: brain._cuts >= MANY, f"{MANY} failed tries")
                assert not any(task.done() for task in (*before, *while_away))
                server.start()
                answers = await asyncio.gather(*before, *while_away)
                assert all(answer.text for answer in answers)
                rows = [row for _, row in await bench.redis.xrange(f"{prefix}replies:brain")]
                done = [row[b"id"].decode() for row in rows if row[b"kind"] == b"done"]
            await bench.redis.aclose()
    expected = [f"b{n}" for n in range(4)] + [f"w{n}" for n in range(20)]
    assert sorted(done) == sorted(expected)


async def test_the_client_gives_up_after_its_time(prefix: str) -> None:
    """The control: with little patience a server that never comes back is a BackendError."""
    async with AsyncClient(f"redis://127.0.0.1:{free_port()}/0", prefix=prefix, give_up_s=0.1) as brain:
        with pytest.raises(BackendError, match="redis is away"):
            await brain.generate(MODEL, "x")
