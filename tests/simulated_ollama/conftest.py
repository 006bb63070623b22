"""Nodes to test with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from orion_streams.demo.ollama import NodeSpec, serve
from tests.helpers import WAIT_S

INSTANT = NodeSpec(disk_mb_per_s=0, prefill_tokens_per_s=0, decode_tokens_per_s=0, unload_ms=50)


@asynccontextmanager
async def client_of(spec: NodeSpec) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a node that runs as long as the block does."""
    async with (
        serve(spec) as node,
        # Plain HTTP: reading the certificates would take longer than most tests.
        httpx.AsyncClient(base_url=node.url, timeout=WAIT_S, verify=False) as client,
    ):
        yield client


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a node that answers at once."""
    async with client_of(INSTANT) as connected:
        yield connected
