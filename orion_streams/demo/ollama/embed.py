"""`/api/embed` and the older `/api/embeddings`; `/v1/embeddings` wraps the former."""

import asyncio
import time
from math import sqrt

import msgspec
from aiohttp import web

from orion_streams.demo.ollama import validate
from orion_streams.demo.ollama.answer_lines import CRASHED, fail_at_once, not_found
from orion_streams.demo.ollama.engine import JsonObject, Refusal
from orion_streams.demo.ollama.native_api import resolve
from orion_streams.demo.ollama.ollama_faults import CRASH
from orion_streams.demo.ollama.runner import Runner
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import json_response
from orion_streams.simulation.machine_spec import ModelSpec

_UNSUPPORTED = "this model does not support embeddings"


class Embedded(msgspec.Struct):
    """One vector for each text; durations in nanoseconds."""

    vectors: list[list[float]]
    tokens: int = 0
    total_ns: int = 0
    load_ns: int = 0


async def embed(node: Node, body: JsonObject) -> web.Response:
    """Answer `/api/embed`. Raises Refusal and ConnectionDroppedError."""
    texts = validate.embed_inputs(body)
    done = await embedded(node, body, texts)
    shown: JsonObject = {"model": body["model"], "embeddings": done.vectors}
    if texts:
        shown |= {
            "total_duration": done.total_ns,
            "load_duration": done.load_ns,
            "prompt_eval_count": done.tokens,
        }
    return json_response(shown)


async def embeddings(node: Node, body: JsonObject) -> web.Response:
    """Answer `/api/embeddings`: one prompt, one vector. A Refusal of the model is always a 500 here."""
    name = body.get("model", "")
    model = resolve(node, name, missing=_try_pulling(name))
    prompt = body.get("prompt", "")
    try:
        done = await _embedded(node, model, body, [prompt] if prompt else [])
    except Refusal as refusal:
        raise Refusal(500, refusal.message) if refusal.late else refusal from refusal
    return json_response({"embedding": done.vectors[0] if prompt else []})


async def embedded(node: Node, body: JsonObject, texts: list[str]) -> Embedded:
    """Embed texts. Raises Refusal and ConnectionDroppedError."""
    name = body["model"]
    model = resolve(node, name, empty=not_found(name), missing=_try_pulling(name))
    return await _embedded(node, model, body, texts)


def _try_pulling(name: str) -> Refusal:
    return Refusal(404, f'model "{name}" not found, try pulling it first')


async def _embedded(node: Node, model: ModelSpec, body: JsonObject, texts: list[str]) -> Embedded:
    started = time.perf_counter_ns()
    runner_options, _ = validate.options(body, model)
    if texts:
        fail_at_once(node, _try_pulling(body["model"]))
    await node.engine.inspect(model)
    async with node.scheduler.lease(model, runner_options, body.get("keep_alive")) as runner:
        done = Embedded([], load_ns=max(1, time.perf_counter_ns() - started))
        try:
            for text in texts:
                await _add(done, node, runner, text, body)
        except Refusal as refusal:
            refusal.late = True
            raise
        done.total_ns = time.perf_counter_ns() - started
        return done


async def _add(done: Embedded, node: Node, runner: Runner, text: str, body: JsonObject) -> None:
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
