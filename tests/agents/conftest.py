"""A simulated node and the router's side of it, under a prefix of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams.demo.ollama import RunningNode, serve
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.agents.agent_bench import QUICK, Bench, Own, open_bench, running


@pytest.fixture
async def node() -> AsyncIterator[RunningNode]:
    """A simulated Ollama that answers at once."""
    async with serve(QUICK) as running:
        yield running


@pytest.fixture
async def bench(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """Everything around one node's agent."""
    async with open_bench(valkey_url, prefix) as opened:
        yield opened


@pytest.fixture
async def agent(bench: Bench) -> AsyncIterator[Bench]:
    """The bench with its agent running."""
    async with running(bench.config):
        yield bench


@pytest.fixture
async def own(tmp_path: Path, prefix: str) -> AsyncIterator[Own]:
    """Every acknowledged write is on the disk; an answer takes some tenths of a second."""
    with EmbeddedServer(tmp_path / "data", fsync="always") as server:
        async with serve(structs.replace(QUICK, decode_tokens_per_s=50.0)) as node:
            bench = Bench(server.url, prefix, node)
            await bench.prepare()
            yield Own(server, bench)
            await bench.redis.aclose()
