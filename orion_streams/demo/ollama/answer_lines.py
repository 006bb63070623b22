"""Run a call and yield the lines of its answer: shared by generate and chat."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from orion_streams.demo.ollama.engine import (
    Event,
    Finished,
    Job,
    LateRefusal,
    Piece,
    Prefilled,
    RunnerOptions,
)
from orion_streams.demo.ollama.ollama_faults import FaultKind, spoiled
from orion_streams.demo.ollama.runner import BUSY, Runner
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.gateway.answers import Line, Metrics
from orion_streams.gateway.refusal import Refusal, not_found
from orion_streams.simulation.machine_spec import ModelSpec

CRASHED = "llama runner process no longer running: -1 "

_AT_ONCE: tuple[FaultKind, ...] = ("busy", "not_found", "kill")
_MIDWAY: tuple[FaultKind, ...] = ("error_line", "end_without_done", "hang")


class ConnectionDroppedError(Exception):
    """The connection must be closed without a response."""


class Call(msgspec.Struct, frozen=True):
    """A checked request. Without a `job` it only loads, or with `unload` unloads, the model. `name`: the
    model as the caller wrote it; `refusal`: raised after the load."""

    name: str
    model: ModelSpec
    stream: bool = True
    keep_s: float | None = None
    options: RunnerOptions = RunnerOptions()
    job: Job | None = None
    unload: bool = False
    refusal: Refusal | None = None
    with_context: bool = False


class _Stopwatch:
    """The times of an answer's stages, in nanoseconds of one clock."""

    def __init__(self) -> None:
        now = time.perf_counter_ns()
        self.started = self.loaded = self.running = self.prefilled = now

    def metrics(self, prompt_tokens: int, tokens: int) -> Metrics:
        now = time.perf_counter_ns()
        return Metrics(
            total_duration=now - self.started,
            load_duration=max(1, self.loaded - self.started),
            prompt_eval_count=prompt_tokens,
            prompt_eval_duration=max(1, self.prefilled - self.running),
            eval_count=tokens,
            # Counted from the first token on: a single one takes no time.
            eval_duration=max(1, now - self.prefilled) if tokens > 1 else 0,
        )


async def answer(node: Node, call: Call) -> AsyncGenerator[Line, None]:
    """Yield the lines of an answer. A stop of the node ends it early, without a done line.

    Raises Refusal, also midway, and ConnectionDroppedError.
    """
    watch = _Stopwatch()
    if call.unload:
        node.scheduler.expire(call.model)
        yield Line(time.time_ns(), done=True, done_reason="unload")
        return
    if call.job is not None:
        fail_at_once(node, not_found(call.name))
    try:
        await node.engine.inspect(call.model)
        async with node.scheduler.lease(call.model, call.options, call.keep_s) as runner:
            watch.loaded = time.perf_counter_ns()
            if call.job is None:
                yield Line(time.time_ns(), done=True, done_reason="load")
                return
            async with aclosing(_lines(node, call, call.job, runner, watch)) as lines:
                async for line in lines:
                    yield line
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not node.stopping or task is None:
            raise
        task.uncancel()


def fail_at_once(node: Node, missing: Refusal) -> None:
    """Apply the armed faults that need no model. Raises Refusal (`missing` for not_found) or
    ConnectionDroppedError."""
    fault = node.faults.take(_AT_ONCE)
    if fault is not None and fault.kind == "busy":
        raise Refusal(503, BUSY)
    if fault is not None and fault.kind == "not_found":
        raise missing
    if fault is not None:
        raise ConnectionDroppedError


async def _lines(
    node: Node, call: Call, job: Job, runner: Runner, watch: _Stopwatch
) -> AsyncGenerator[Line, None]:
    try:
        if call.refusal is not None:
            raise call.refusal
        async with runner.slots:
            if runner.crashed:
                raise Refusal(500, CRASHED)
            with node.machine.running():
                watch.running = time.perf_counter_ns()
                async with aclosing(_events(node, job, runner)) as events:
                    async for line in _told(events, call, job, runner, watch):
                        yield line
    except Refusal as refusal:
        raise LateRefusal(refusal) from refusal


async def _told(
    events: AsyncGenerator[Event, None], call: Call, job: Job, runner: Runner, watch: _Stopwatch
) -> AsyncGenerator[Line, None]:
    prompt_tokens = 0
    said: list[str] = []
    async for event in events:
        match event:
            case Prefilled():
                prompt_tokens = event.tokens
                watch.prefilled = time.perf_counter_ns()
            case Piece():
                said.append(event.text)
                yield Line(
                    time.time_ns(),
                    text=event.text,
                    thinking=event.thinking,
                    tool_calls=list(event.tool_calls),
                    logprobs=list(event.logprobs),
                )
            case Finished():
                context = None
                if call.with_context:
                    more = await runner.loaded.tokenize(job.prompt + "".join(said))
                    context = [*job.context, *more]
                yield Line(
                    time.time_ns(),
                    done=True,
                    done_reason=event.reason,
                    context=context,
                    metrics=watch.metrics(prompt_tokens, event.tokens),
                )


def _events(node: Node, job: Job, runner: Runner) -> AsyncGenerator[Event, None]:
    events = runner.loaded.run(job)
    fault = node.faults.take(_MIDWAY)
    return spoiled(events, fault.kind, runner) if fault is not None else events


async def gathered(lines: AsyncGenerator[Line, None]) -> Line:
    """Join the lines to one; it is not done if they ended early."""
    parts = [line async for line in lines]
    last = parts[-1] if parts else Line(time.time_ns())
    return msgspec.structs.replace(
        last,
        text="".join(part.text for part in parts),
        thinking="".join(part.thinking for part in parts),
        tool_calls=[call for part in parts for call in part.tool_calls],
        logprobs=[entry for part in parts for entry in part.logprobs],
    )
