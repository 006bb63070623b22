"""The processes that are measured: server, relay, router, agents, gateway and an Ollama that answers at
once.

Two of the house's three nodes have an agent: `orion-worker` answers inside its agent, `orion-master` asks a
simulated Ollama. The marks are set so that the machine is never too hot or too full.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from orion_streams.config import Config, parse
from orion_streams.demo.simulated_grid import GEMMA, grid_when, toml_table
from orion_streams.errors import BackendError
from orion_streams.model.state import Grid
from orion_streams.runtime.embedded_server import EmbeddedServer
from orion_streams.runtime.supervisor import Child, Say
from orion_streams.simulation.machine_spec import NodeSpec

SLOTS, STREAMS = 16, 200
"""Requests in flight when a rate is measured; streams that are open at once."""
ECHO_MODEL, HTTP_MODEL = "echo:latest", GEMMA.name
ECHO_NODE, HTTP_NODE = "orion-worker", "orion-master"
READY_S = 120.0
CLIENT = "brain"
RELAY_STREAMS = ("relay:1", "relay:2", "relay:3", "relay:4")


class BenchGrid:
    """Context manager that starts the processes of a measurement and ends them all. `instant`: the node's
    Ollama is no simulated one, but one that answers at once."""

    def __init__(self, folder: Path, remark: Say, *, instant: bool = False) -> None:
        self.folder, self._remark, self._instant = folder, remark, instant
        self.url = self.ollama_url = ""
        self.children: list[Child] = []
        self._held = AsyncExitStack()

    @property
    def config(self) -> Config:
        """The configuration of the processes."""
        return parse(self._toml())

    async def __aenter__(self) -> BenchGrid:
        server = EmbeddedServer(self.folder / "redis")
        self._held.push_async_callback(asyncio.to_thread, server.stop)
        try:
            self.url = await asyncio.to_thread(server.start)
            node = await self._start("Ollama", "-m", *self._ollama(), announces=True)
            self.ollama_url = str(node.announced["url"])
            self._config_path.write_text(self._toml(), encoding="utf-8")
        except BaseException:
            await self._held.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()

    async def start_relay(self) -> None:
        """Start the four hops of a request: one process for the router, one for the agent."""
        one, two, three, four = RELAY_STREAMS
        hops = {"relay as router": (one, two, three, four), "relay as agent": (two, three)}
        for name, streams in hops.items():
            await self._start(name, "-m", "orion_streams.bench.relay", self.url, *streams, announces=True)

    async def start_agent(self, node: str, model: str) -> Child:
        """Start the agent of a node, and wait until the log says that it has the model."""
        child = await self.start_role("agent", "--node", node)
        await self.wait_for(lambda grid: node in grid.nodes and has_model(grid, node, model), child)
        return child

    async def start_gateway(self) -> Child:
        """Start the gateway on a free port, and wait until it answers."""
        return await self.start_role("gateway", "--port", "0", "--json", announces=True)

    async def wait_for(self, condition: Callable[[Grid], bool], child: Child) -> None:
        """Wait until the grid at the log's end satisfies a condition. Raises BackendError after READY_S."""
        try:
            await grid_when(self.url, self.config.prefix, condition, READY_S)
        except TimeoutError as error:
            raise BackendError(f"{child.name} was not ready in time: {child.last_words()}") from error

    def check_alive(self) -> None:
        """Raise BackendError if a process has ended or was restarted: then it was not measured."""
        for child in self.children:
            if child.restarts or child.pid is None:
                raise BackendError(f"{child.name} ended while it was measured: {child.last_words()}")

    @property
    def _config_path(self) -> Path:
        return self.folder / "streams.toml"

    def _ollama(self) -> tuple[str, ...]:
        if self._instant:
            return ("orion_streams.bench.instant_ollama", HTTP_MODEL)
        return ("orion_streams.demo.ollama", "--spec", str(self._spec()))

    def _spec(self) -> Path:
        spec = NodeSpec(
            HTTP_NODE,
            disk_mb_per_s=0,
            prefill_tokens_per_s=0,
            decode_tokens_per_s=0,
            unload_ms=0,
            slots=SLOTS,
            models=(GEMMA,),
        )
        path = self.folder / "node.json"
        path.write_bytes(msgspec.json.encode(spec))
        return path

    async def start_role(self, *words: str, announces: bool = False) -> Child:
        """Start a process of the grid by the words of its command."""
        command = ("-m", "orion_streams.cli", *words, "--config", str(self._config_path))
        return await self._start(" ".join(words), *command, announces=announces)

    async def _start(self, name: str, *arguments: str, announces: bool = False) -> Child:
        env = {"TMPDIR": str(self.folder), "ORION_REDIS_URL": self.url, "ORION_REDIS_PASSWORD": ""}
        child = Child(name, (sys.executable, *arguments), env=env, announces=announces, remark=self._remark)
        self.children.append(child)
        self._held.push_async_callback(child.stop)
        await child.start()
        return child

    def _toml(self) -> str:
        node: dict[str, Any] = {"slots": SLOTS, "temperature_sensor": False}
        tables: dict[str, dict[str, Any]] = {
            "redis": {"url": self.url},
            f"nodes.{HTTP_NODE}": {**node, "tiers": [1], "ollama": self.ollama_url},
            f"nodes.{ECHO_NODE}": {**node, "tiers": [2], "ollama": "echo://"},
            "gateway": {"keys_file": str(self.folder / "keys.json"), "max_streams": STREAMS},
            "nodes.orion-edge": {"inference": False, "ollama": ""},
            "policy": {
                "temp_max_mc": 119_000,
                "temp_critical_mc": 120_000,
                "ram_max_permille": 1000,
                "ram_return_permille": 999,
            },
        }
        return "revision = 1\n" + "".join(toml_table(name, values) for name, values in tables.items())


def has_model(grid: Grid, node: str, model: str) -> bool:
    """Return whether the node is known to have the model installed."""
    row = grid.nodes[node]
    return row.inventory_known and model in row.installed
