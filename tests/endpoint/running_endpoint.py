"""A whole grid of processes with a gateway, for clients that know nothing of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import httpx

from orion_streams.demo.simulated_grid import SimulatedGrid, SimulatedNode
from orion_streams.model.state import Grid
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from tests.helpers import WAIT_S, eventually_true

SKILLED = ModelSpec(
    name="skilled:1b", size_mb=800, capabilities=("completion", "tools", "thinking", "vision", "insert")
)
PLAIN = ModelSpec(name="plain:270m", size_mb=253.113294)
EMBEDDER = ModelSpec(name="embedder:latest", size_mb=274, embedding_length=768, capabilities=("embedding",))
INSTANT = NodeSpec(
    name="pi",
    ram_total_mb=64_000,
    disk_mb_per_s=0,
    prefill_tokens_per_s=0,
    decode_tokens_per_s=0,
    unload_ms=0,
    slots=8,
    models=(SKILLED, PLAIN, EMBEDDER),
)
"""A node that answers at once."""
NODE = INSTANT.name
RECORDED = NodeSpec(
    name="bench", disk_mb_per_s=5_000, prefill_tokens_per_s=1_000, decode_tokens_per_s=75, unload_ms=50
)
"""A node with the models of the transcripts, slow enough that each part of an answer takes time."""
NAMES = {*(model.name for model in INSTANT.models), "gpt-4o:latest"}
"""What is listed."""
SETTINGS: dict[str, dict[str, Any]] = {
    "gateway.aliases": {"gpt-4o": PLAIN.name},  # of a model that only the first has
    "limits": {"health_ms": 200},
}

T = TypeVar("T")


class RunningEndpoint:
    """A grid with a gateway. Its loop runs in a thread of its own, so that blocking clients can ask it."""

    def __init__(self, spec: NodeSpec = INSTANT, grid: SimulatedGrid | None = None) -> None:
        nodes = [SimulatedNode(spec.name, "everything", spec)]
        self.grid = grid or SimulatedGrid(nodes, settings=SETTINGS, gateway=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.grid.start())
        self.when(self.grid.all_known, "all nodes are known")
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.grid.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the grid lives, and wait for it."""
        return self._started(work).result()

    def _started(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return self.grid.gateway_url

    @property
    def v1(self) -> str:
        """The base of OpenAI's API."""
        return f"{self.url}/v1"

    @property
    def place(self) -> tuple[str, int]:
        """Host and port, for a socket."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def when(self, holds: Callable[[Grid], bool], what: str) -> Grid:
        """Wait until the grid is so, and a gateway that runs has seen it; return it."""
        grid = self.run(self.grid.wait_for(holds, WAIT_S, what))
        if self.grid.gateway is not None and self.grid.gateway.pid is not None:
            eventually_true(lambda: self._seen_by_gateway() >= grid.position, "the gateway has seen it")
        return grid

    def _seen_by_gateway(self) -> int:
        return int(httpx.get(f"{self.url}/orion/v1/state").json()["position"])

    def hang(self) -> None:
        """Let the next answer stop after some tokens, until who asks goes away."""
        self.run(self.grid.fault(NODE, "hang"))

    def the_open_one(self) -> str:
        """The only request that is open, once a node works on it."""
        grid = self.when(lambda now: any(each.work_id for each in now.open.values()), "a request is open")
        [key] = grid.open
        return key

    def is_cancelled(self, key: str) -> None:
        """Wait until a request has ended, cancelled, and no node works on it."""
        grid = self.when(lambda now: now.find_closed(key) is not None, f"{key} has ended")
        found = grid.find_closed(key)
        assert found is not None
        assert found.state == "cancelled"
        self.when(lambda now: not any(node.assignments for node in now.nodes.values()), "no node works")
