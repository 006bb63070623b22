"""A simulated node and the router's side of it, under a prefix of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orion_streams.demo.ollama import RunningNode, serve
from tests.agents.agent_bench import QUICK, Bench


@pytest.fixture
async def node() -> AsyncIterator[RunningNode]:
    """A simulated Ollama that answers at once."""
    async with serve(QUICK) as running:
        yield running


@pytest.fixture
async def bench(valkey_url: str, prefix: str, node: RunningNode) -> AsyncIterator[Bench]:
    """Everything around one node's agent."""
    opened = Bench(valkey_url, prefix, node)
    await opened.prepare()
    yield opened
    await opened.close()
