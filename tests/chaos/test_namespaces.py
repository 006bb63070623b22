"""A node behind a real link of the kernel's, in a network namespace of its own: the link goes down, and
comes back late. The server is reached through it, so packets get lost and are sent again, as in a house."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams import AsyncClient
from orion_streams.demo.observer import Observer
from orion_streams.demo.simulated_grid import SimulatedGrid
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.runtime.connection import connect
from tests.chaos import invariants
from tests.chaos.chaos_grid import SETTINGS, cast
from tests.chaos.proxy import Proxy
from tests.helpers import WAIT_S, history
from tests.needs import namespaces

WORKER, MASTER = "orion-worker", "orion-master"
NAME = f"orion{os.getpid()}"
OUTER, INNER = f"o{os.getpid()}", f"i{os.getpid()}"
HERE, THERE = "198.18.77.1", "198.18.77.2"
"""Of the block that is reserved for such tests."""


def ip(*words: str) -> None:
    """One `ip` command."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def link() -> Iterator[None]:
    """A namespace with one link to here."""
    ip("netns", "add", NAME)
    try:
        ip("link", "add", OUTER, "type", "veth", "peer", "name", INNER, "netns", NAME)
        ip("address", "add", f"{HERE}/30", "dev", OUTER)
        ip("link", "set", OUTER, "up")
        for words in (("address", "add", f"{THERE}/30", "dev", INNER), ("link", "set", INNER, "up")):
            ip("-n", NAME, *words)
        ip("-n", NAME, "link", "set", "lo", "up")
        yield
    finally:
        with suppress(subprocess.CalledProcessError):
            ip("link", "delete", OUTER)
        ip("netns", "delete", NAME)


class PartedGrid(SimulatedGrid):
    """The worker's agent and Ollama live in the namespace; Redis is reached through a proxy at the link."""

    def __init__(self, folder: Path) -> None:
        nodes = []
        for node in cast():
            slow = structs.replace(node.spec, decode_tokens_per_s=40)  # so that both have work for a while
            if node.name == WORKER:
                slow = structs.replace(slow, host=THERE, decode_tokens_per_s=4)
            nodes.append(structs.replace(node, spec=slow))
        super().__init__(nodes, folder=folder, settings=SETTINGS)
        self.gate: Proxy | None = None

    def url_for(self, role: str) -> str:
        assert self.gate is not None
        return self.gate.url if role == f"agent {WORKER}" else self.redis_url

    def command(self, process: str, argv: tuple[str, ...]) -> tuple[str, ...]:
        return ("ip", "netns", "exec", NAME, *argv) if process.endswith(WORKER) else argv

    async def _start_server(self) -> str:
        url = await super()._start_server()
        self.gate = Proxy(url, HERE)
        await self.gate.start()
        return url

    async def stop(self) -> None:
        await super().stop()
        if self.gate is not None:
            await self.gate.stop()


def runs_on_both(grid: Grid) -> bool:
    """Somebody runs on each node."""
    return {row.node for row in grid.open.values() if row.started} == {WORKER, MASTER}


def moved(grid: Grid) -> bool:
    """Nothing is on the worker any more."""
    return all(row.node != WORKER for row in grid.open.values())


@pytest.mark.everything(namespaces())
async def test_a_node_behind_a_broken_link(link: None, tmp_path: Path) -> None:
    """Its work moves while the link is down; then its old answers are refused, and it works again."""
    async with PartedGrid(tmp_path) as grid, AsyncClient(grid.redis_url) as client:
        redis = connect(grid.redis_url)
        observer = Observer(redis, "orion:", ["brain"], [MASTER, WORKER, "orion-edge"])
        observer.start()
        options = {"temperature": 0, "num_predict": 60}
        asks = [
            asyncio.ensure_future(client.generate("gemma3:270m", f"room {n}", options=options))
            for n in range(6)
        ]
        await grid.wait_for(runs_on_both, WAIT_S, "work on both nodes")
        ip("link", "set", OUTER, "down")
        await grid.wait_for(moved, WAIT_S, "the worker's attempts are given up")
        ip("link", "set", OUTER, "up")
        answers = await asyncio.gather(*asks)
        await grid.wait_for(
            lambda now: not now.nodes[WORKER].assignments, 30, "its old attempts have ended"
        )
        again = [await client.generate("gemma3:270m", "again", tier=2) for _ in range(4)]
        tally = await observer.stop()
        events = await history(RedisLog(redis, "orion:"))
        await redis.aclose()
    assert (tally.requests, tally.answered, tally.duplicate_replies, tally.lost) == (10, 10, 0, 0)
    assert tally.duplicate_dispatches == 0
    assert (invariants.stale_answers(observer), invariants.glued_halves(observer)) == ([], [])
    assert tally.rerouted > 0
    assert any(isinstance(each, ev.AttemptEnded) and each.node == WORKER for each in events)
    assert {answer.node for answer in answers} <= {MASTER, WORKER}
    assert WORKER in {answer.node for answer in again}
