"""`/api/embed` and the older `/api/embeddings`."""

import asyncio
import time
from math import sqrt

import msgspec

from orion_streams.demo.ollama import validate
from orion_streams.demo.ollama.answer_lines import CRASHED, fail_at_once
from orion_streams.demo.ollama.engine import LateRefusal
from orion_streams.demo.ollama.native_api import resolve
from orion_streams.demo.ollama.ollama_faults import CRASH
from orion_streams.demo.ollama.runner import Runner
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.gateway import native_requests
from orion_streams.gateway.answers import HttpAnswer, Metrics
from orion_streams.gateway.native_answers import embedded, embedded_one
from orion_streams.gateway.refusal import JsonObject, Refusal, not_found, not_found_to_embed
from orion_streams.simulation.machine_spec import ModelSpec

_UNSUPPORTED = "this model does not support embeddings"


class _Embedded(msgspec.Struct):
    """One vector for each text; durations in nanoseconds."""

    vectors: list[list[float]]
    tokens: int = 0
    total_ns: int = 0
    load_ns: int = 0


async def embed(node: Node, body: JsonObject) -> HttpAnswer:
    """Answer `/api/embed`. Raises Refusal and ConnectionDroppedError."""
    texts = native_requests.embed_inputs(body)
    name = body["model"]
    model = resolve(node, name, empty=not_found(name), missing=not_found_to_embed(name))
    done = await _embedded(node, model, body, texts)
    metrics = Metrics(done.total_ns, done.load_ns, done.tokens) if texts else Metrics()
    return embedded(name, done.vectors, metrics)


async def embeddings(node: Node, body: JsonObject) -> HttpAnswer:
    """Answer `/api/embeddings`: one prompt, one vector. A Refusal of the model is always a 500 here."""
    name = body["model"]
    model = resolve(node, name, missing=not_found_to_embed(name))
    prompt = body.get("prompt", "")
    try:
        done = await _embedded(node, model, body, [prompt] if prompt else [])
    except LateRefusal as refusal:
        raise Refusal(500, refusal.message) from refusal
    return embedded_one(done.vectors[0] if prompt else [])


async def _embedded(node: Node, model: ModelSpec, body: JsonObject, texts: list[str]) -> _Embedded:
    started = time.perf_counter_ns()
    runner_options, _ = validate.options(body, model)
    if texts:
        fail_at_once(node, not_found_to_embed(body["model"]))
    await node.engine.inspect(model)
    async with node.scheduler.lease(model, runner_options, native_requests.keep_alive_s(body)) as runner:
        done = _Embedded([], load_ns=max(1, time.perf_counter_ns() - started))
        try:
            for text in texts:
                await _add(done, node, runner, text, body)
        except Refusal as refusal:
            raise LateRefusal(refusal) from refusal
        done.total_ns = time.perf_counter_ns() - started
        return done


async def _add(done: _Embedded, node: Node, runner: Runner, text: str, body: JsonObject) -> None:
    if "embedding" not in runner.model.capabilities:
        raise Refusal(501, _UNSUPPORTED)
    async with runner.slots:
        if runner.crashed:
            raise Refusal(500, CRASHED)
        with node.machine.running():
            await _fail_midway(node, runner)
            vector, tokens = await runner.loaded.embed(text, truncate=body.get("truncate", True))
    done.vectors.append(_shortened(vector, body.get("dimensions", 0)))
    done.tokens += tokens


async def _fail_midway(node: Node, runner: Runner) -> None:
    fault = node.faults.take(("error_line", "hang"))
    if fault is None:
        return
    if fault.kind == "hang":
        await asyncio.Event().wait()
    runner.crashed = True
    raise Refusal(500, CRASH)


def _shortened(vector: list[float], dimensions: int) -> list[float]:
    """Return the first `dimensions` of a vector, normalized to length 1."""
    if not 0 < dimensions < len(vector):
        return vector
    head = vector[:dimensions]
    length = sqrt(sum(x * x for x in head)) or 1.0
    return [x / length for x in head]
