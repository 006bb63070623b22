"""`/sim/…`: controls of the simulation, outside of Ollama's API.

GET /sim/sensors reads the machine, POST /sim/set changes it, POST /sim/fault arms a fault.
"""

from typing import TypeVar

import msgspec
from aiohttp import web

from orion_streams.demo.ollama.ollama_faults import Fault
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import json_response
from orion_streams.gateway import golang
from orion_streams.gateway.refusal import Refusal

S = TypeVar("S", bound=msgspec.Struct)


class Push(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values to set: temperatures in milli-degrees Celsius, memory in MB of 10**6 bytes."""

    temp_mc: int | None = None
    ambient_mc: int | None = None
    extra_ram_mb: int | None = None


class Control:
    """Handlers; bad requests raise Refusal 400."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def sensors(self, _: web.Request) -> web.Response:
        return self._reading()

    async def set(self, request: web.Request) -> web.Response:
        """Change the machine; answer with its sensors."""
        push = _read(await request.read(), Push)
        self._node.machine.push(**msgspec.structs.asdict(push))
        return self._reading()

    async def fault(self, request: web.Request) -> web.Response:
        """Arm a fault; answer with all armed ones."""
        self._node.faults.arm(_read(await request.read(), Fault))
        return json_response({"armed": self._node.faults.armed()})

    def _reading(self) -> web.Response:
        sensors = msgspec.structs.asdict(self._node.machine.sensors())
        return json_response({"simulated": True, "engine": self._node.engine.name, **sensors})


def _read(raw: bytes, kind: type[S]) -> S:
    try:
        return msgspec.convert(golang.decode(raw, when_empty="missing request body"), kind)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_fields__)
        raise Refusal(400, f"{error}; known fields: {known}") from error
