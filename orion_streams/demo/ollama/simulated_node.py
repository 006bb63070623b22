"""Wire the parts of a simulated node."""

import asyncio
from typing import Any

from orion_streams.demo.ollama.engine import Engine
from orion_streams.demo.ollama.llama import LlamaEngine
from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.demo.ollama.ollama_faults import Faults
from orion_streams.demo.ollama.runner import Scheduler
from orion_streams.demo.ollama.synthetic import SyntheticEngine
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.machine_state import Machine


class Node:
    """A node; create it inside a running event loop, `close` stops it.

    Raises RealEngineMissingError when the llama engine is wanted and not installed.
    """

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.faults = Faults()
        self.machine = Machine(spec, self._resident_bytes)
        self.engine: Engine = (
            LlamaEngine(spec) if spec.engine == "llama" else SyntheticEngine(spec, self.machine)
        )
        self.scheduler = Scheduler(spec, self.engine, self.machine, self._unload_s)
        self.installed = {ModelName.parse(model.name).key: model for model in spec.models}
        self.registry = {ModelName.parse(model.name).key: model for model in spec.registry}
        self.pulled_bytes: dict[str, int] = {}
        self.stopping = False
        self._answering: set[asyncio.Task[Any]] = set()

    def find(self, name: ModelName) -> ModelSpec | None:
        return self.installed.get(name.key)

    def track(self, task: asyncio.Task[Any]) -> None:
        """Let `stop_answers` end the answer of this task."""
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def stop_answers(self) -> None:
        """End every answer where it is: cleanly, without `done: true`."""
        self.stopping = True
        for task in self._answering:
            task.cancel()

    async def close(self) -> None:
        await self.scheduler.close()

    def _resident_bytes(self) -> int:
        return self.scheduler.resident_bytes()

    def _unload_s(self) -> float:
        slow = self.faults.take(("slow_unload_ms",))
        return (slow.ms if slow else self.spec.unload_ms) / 1000
