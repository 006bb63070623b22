"""`/api/pull` from a registry that is SIMULATED: no byte is fetched, nothing leaves this machine.

The form is the real one (server/images.go, server/download.go): a line for each step, errors as a line
under status 200 once the first was written, and what was pulled before is not pulled again.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.demo.ollama.ollama_faults import FaultKind
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import json_response
from orion_streams.gateway import native_requests
from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.simulation.machine_spec import ModelSpec

STEPS = 20
"""Lines of a part."""
TEMPLATE_BYTES = 358
PULL_FAULTS: tuple[FaultKind, ...] = ("pull_offline", "pull_no_space", "pull_cut")
OFFLINE = (
    'pull model manifest: Get "https://registry.ollama.ai/v2/library/{model}/manifests/{tag}": '
    "dial tcp: lookup registry.ollama.ai: no such host"
)
NO_SPACE = "write /root/.ollama/models/blobs/sha256-{blob}-partial: no space left on device"


class Pulls:
    """The route of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Pull a model; without `stream` answer at the end."""
        body = native_requests.read(await request.read())
        name = native_requests.named_request(body, "api.PullRequest")
        parsed = ModelName.parse(name)
        if not parsed.valid:
            raise Refusal(400, "invalid model name")
        lines = steps(self._node, parsed)
        if body.get("stream") is False:
            async with aclosing(lines):
                async for _ in lines:
                    pass
            return json_response({"status": "success"})
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with aclosing(lines):
            try:
                async for line in lines:
                    await response.write(msgspec.json.encode(line) + b"\n")
            except Refusal as refusal:
                await response.write(msgspec.json.encode({"error": refusal.message}) + b"\n")
        await response.write_eof()
        return response


async def steps(node: Node, name: ModelName) -> AsyncGenerator[JsonObject, None]:
    """Yield the lines of a pull. Raises Refusal."""
    fault = node.faults.take(PULL_FAULTS)
    yield {"status": "pulling manifest"}
    if fault is not None and fault.kind == "pull_offline":
        raise Refusal(500, OFFLINE.format(model=name.model, tag=name.tag))
    model = node.registry.get(name.key) or node.find(name)
    if model is None:
        raise Refusal(500, "pull model manifest: file does not exist")
    for blob, size in parts_of(model):
        async with aclosing(part(node, blob, size)) as lines:
            async for line in lines:
                yield line
                if fault is not None and line["completed"] * 2 >= size:
                    if fault.kind == "pull_no_space":
                        raise Refusal(500, NO_SPACE.format(blob=blob))
                    return
    for status in ("verifying sha256 digest", "writing manifest"):
        yield {"status": status}
    node.installed[name.key] = model
    yield {"status": "success"}


def parts_of(model: ModelSpec) -> list[tuple[str, int]]:
    """Return digest and size of the weights, and of the template."""
    template = hashlib.sha256(f"template {model.name}".encode()).hexdigest()
    return [(model.blob, model.size_bytes), (template, TEMPLATE_BYTES)]


async def part(node: Node, blob: str, size: int) -> AsyncGenerator[dict[str, Any], None]:
    """Pull a part from where it is. One that is there whole is said in one line."""
    has = size if is_there(node, blob) else node.pulled_bytes.get(blob, 0)
    line: dict[str, Any] = {"status": f"pulling {blob[:12]}", "digest": f"sha256:{blob}", "total": size}
    step, rate = -(-size // STEPS), node.spec.net_mb_per_s * 1e6
    yield {**line, "completed": has}
    while has < size:
        if rate:
            await asyncio.sleep(step / rate / node.spec.time_scale)
        has = min(has + step, size)
        node.pulled_bytes[blob] = has
        yield {**line, "completed": has}


def is_there(node: Node, blob: str) -> bool:
    """Whether an installed model has the part."""
    return any(blob == digest for model in node.installed.values() for digest, _ in parts_of(model))
