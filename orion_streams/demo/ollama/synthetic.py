"""The synthetic engine: the timing and form of a model, without a model.

Text is a pure function of model, prompt, and (unless the temperature is 0) seed and temperature;
`num_predict` and `stop` only truncate it. Times follow the node's rates; a rate of 0 takes no time.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Iterator
from typing import Literal

import msgspec

from orion_streams.demo.ollama import json_schema
from orion_streams.demo.ollama.engine import (
    Event,
    Finished,
    Job,
    Piece,
    Prefilled,
    RunnerOptions,
    Sampling,
    context_size,
    fitted_prompt,
)
from orion_streams.demo.ollama.tokenizer import Cut, cut, logprob, prose, seeded, token_id, tokenize
from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.machine_state import Machine

# Every request reads the model's header again, mostly its vocabulary: that is why the recorded
# `load_duration` of a warm model was 150 to 270 ms and never 0.
_HEADER_MB = 16
_BEGINNING = "<bos>"
_THOUGHT_TOKENS = 12


class SyntheticEngine:
    """See the module. Loading takes the size of the model at the speed of the disk."""

    def __init__(self, spec: NodeSpec, machine: Machine) -> None:
        self._spec = spec
        self._machine = machine

    @property
    def name(self) -> Literal["synthetic"]:
        return "synthetic"

    async def inspect(self, model: ModelSpec) -> None:
        await _take(min(_HEADER_MB, model.size_mb), self._spec.disk_mb_per_s)

    async def load(self, model: ModelSpec, options: RunnerOptions) -> "SyntheticModel":
        await _take(model.size_mb, self._spec.disk_mb_per_s)
        return SyntheticModel(self._spec, self._machine, model, context_size(model, options))


class SyntheticModel:
    """A loaded model. It caches its last prompt: a common prefix takes no prefill."""

    def __init__(self, spec: NodeSpec, machine: Machine, model: ModelSpec, num_ctx: int) -> None:
        self._machine = machine
        self._model = model
        self._num_ctx = num_ctx
        self._node_seed = spec.seed
        self._prefill_rate = spec.rate_for(model, spec.prefill_tokens_per_s)
        self._decode_rate = spec.rate_for(model, spec.decode_tokens_per_s)
        self._cached: list[str] = []

    async def run(self, job: Job) -> AsyncGenerator[Event, None]:
        prompt = await self._prefill(_prompt_tokens(job), truncate=job.truncate)
        yield Prefilled(prompt)
        rng = self._rng(job)
        room = None if job.shift else max(1, self._num_ctx - prompt)
        answer = _answer(job, rng, room)
        first = True
        for piece in answer.pieces:
            if not first:
                await self._decode()
            first = False
            yield piece
        # Tokens hidden by a stop sequence or a tool call are decoded, too.
        for _ in range(answer.tokens - len(answer.pieces)):
            await self._decode()
        yield Finished(answer.reason, answer.tokens)

    async def embed(self, text: str, *, truncate: bool) -> tuple[list[float], int]:
        count = await self._prefill([_BEGINNING, *tokenize(text)], truncate=truncate)
        rng = seeded(self._model.name, "embedding", text)
        vector = [rng.gauss(0, 1) for _ in range(self._model.embedding_length)]
        length = math.sqrt(sum(x * x for x in vector))
        return [x / length for x in vector], count

    async def tokenize(self, text: str) -> list[int]:
        return [token_id(token) for token in tokenize(text)]

    async def close(self) -> None:
        self._cached = []

    async def _prefill(self, tokens: list[str], *, truncate: bool) -> int:
        """Read the prompt and return its length; the cached prefix takes no time."""
        prompt = list(fitted_prompt(tokens, self._num_ctx, truncate=truncate))
        known = 0
        for old, new in zip(self._cached, prompt, strict=False):
            if old != new:
                break
            known += 1
        await _take(max(1, len(prompt) - known) * self._share(), self._prefill_rate)
        self._cached = prompt
        return len(prompt)

    async def _decode(self) -> None:
        await _take(self._share(), self._decode_rate)

    def _share(self) -> int:
        """Return how many runs share the machine's speed."""
        return max(1, self._machine.active)

    def _rng(self, job: Job) -> random.Random:
        choice = _chosen_seed(job.sampling, self._node_seed)
        return seeded(self._model.name, job.prompt, job.context, choice)


class _Answer(msgspec.Struct):
    pieces: list[Piece]
    reason: Literal["stop", "length"]
    tokens: int


async def _take(amount: float, rate: float) -> None:
    """Sleep for `amount` at `rate` per second; not at all if the rate is 0."""
    if rate:
        await asyncio.sleep(amount / rate)


def _chosen_seed(sampling: Sampling, node_seed: int) -> tuple[int, float] | None:
    if sampling.temperature == 0:
        return None
    return (sampling.seed if sampling.seed >= 0 else node_seed, sampling.temperature)


def _prompt_tokens(job: Job) -> list[str]:
    earlier = [f"<{token}>" for token in job.context]
    return [_BEGINNING, *earlier, *tokenize(job.prompt)]


def _answer(job: Job, rng: random.Random, room: int | None) -> _Answer:
    """Make an answer: thinking, then tool calls or a text, within `room` tokens."""
    limit = _least(job.sampling.num_predict if job.sampling.num_predict > 0 else None, room)
    thoughts = prose(rng)[:_THOUGHT_TOKENS][:limit] if job.think else []
    pieces = [Piece(thinking=thought) for thought in thoughts]
    if limit is not None and len(thoughts) == limit:
        return _Answer(pieces, "length", limit)
    left = None if limit is None else limit - len(thoughts)
    if job.tools:
        calls = _tool_calls(job, rng)
        made = sum(len(tokenize(name_of(call))) + len(call["function"]["arguments"]) + 3 for call in calls)
        return _Answer(
            [*pieces, *(Piece(tool_calls=(call,)) for call in calls)], "stop", len(pieces) + made
        )
    said = cut(_text(job, rng), job.sampling.stop, left)
    pieces += _spoken(said, job, rng)
    return _Answer(pieces, said.reason, len(thoughts) + said.tokens)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _spoken(said: Cut, job: Job, rng: random.Random) -> Iterator[Piece]:
    for text in said.pieces:
        odds = (logprob(rng, text, job.top_logprobs),) if job.logprobs else ()
        yield Piece(text=text, logprobs=odds)


def _text(job: Job, rng: random.Random) -> list[str]:
    if job.format is None:
        return prose(rng)
    value = json_schema.anything(rng) if job.format == "json" else _sampled(job.format, rng)
    return tokenize(msgspec.json.encode(value).decode())


def _sampled(wanted: object, rng: random.Random) -> object:
    try:
        return json_schema.sample(wanted, rng)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise Refusal(500, "invalid JSON schema in format") from error


def _tool_calls(job: Job, rng: random.Random) -> list[JsonObject]:
    """Call each tool that the prompt names; if it names none, one by chance."""
    named = [tool for tool in job.tools if (name := name_of(tool)) and name in job.prompt]
    tools = named or [rng.choice(job.tools)]
    return [_tool_call(tool, index, rng) for index, tool in enumerate(tools)]


def _tool_call(tool: JsonObject, index: int, rng: random.Random) -> JsonObject:
    function = tool.get("function") or {}
    made = _sampled(function.get("parameters") or {}, rng)
    arguments = made if isinstance(made, dict) else {}
    return {
        "id": f"call_{rng.getrandbits(32):08x}",
        "function": {"index": index, "name": name_of(tool), "arguments": arguments},
    }


def name_of(tool: JsonObject) -> str:
    """Return the name of a tool, or of a call's."""
    return str((tool.get("function") or {}).get("name", ""))
