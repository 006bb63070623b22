"""A node's worker: performs the effects of agents/worker_core.py on Redis and on the node's backend.

Success is a `done` chunk only. Whatever else goes wrong, the router gets a result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any

from msgspec import structs
from redis.exceptions import RedisError

from orion_streams.agents.answer import Answer, Repeater, plausible
from orion_streams.agents.backend import Backend, RunFailedError
from orion_streams.agents.disk_worker import DiskWorker
from orion_streams.agents.job import Job, Phase
from orion_streams.agents.model_disk import free_mb
from orion_streams.agents.ollama_requests import tokens_allowed
from orion_streams.agents.part_reader import PartReader
from orion_streams.agents.results import ResultWriter
from orion_streams.agents.worker_core import (
    CANCELLED,
    CATCH_UP_COUNT,
    Acknowledge,
    Begin,
    Done,
    Effect,
    Stop,
    WorkerCore,
    Write,
)
from orion_streams.config import Config
from orion_streams.errors import ContractError
from orion_streams.model.measured import Usage
from orion_streams.model.state import client_of
from orion_streams.protocol import requests_replies
from orion_streams.protocol.agent_entries import WorkHead
from orion_streams.runtime.faust_redis import Item, StreamChannel

log = logging.getLogger("orion.agent")

STOP_STEP_S = 0.2
HAND_BACK_S = 3.0
"""So long an agent that leaves waits for what it has stopped, and for its results to be written."""
Outcome = Done | RunFailedError


class Worker:
    """Drives one node's core with a channel, a result writer and a backend. Each job has one task at a
    time: the one that carries it out, then the one that writes its result."""

    def __init__(
        self, config: Config, node: str, channel: StreamChannel, results: ResultWriter, backend: Backend
    ) -> None:
        self.config = config
        self.channel, self.results, self.backend = channel, results, backend
        self.parts = PartReader(channel.redis, config.key)
        self.disk = DiskWorker(backend, config.limits, lambda: free_mb(config.node(node)))
        self.core = WorkerCore(config.node(node).slots, backend.engine)
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._stops = False
        self._settled = asyncio.Event()

    def noticed(self, item: Item) -> None:
        """Note an entry the moment it is read: from now on health lists it."""
        self.perform(self.core.notice(item.id, item.fields))

    async def handle(self, item: Item) -> None:
        """Take up an entry that was noticed; work goes on in a task of its own."""
        self.perform(self.core.take(item.id, item.fields))

    async def catch_up(self) -> None:
        """Read the stream to its end before anything new runs, at the start and after every cut."""
        self.channel.settled.clear()  # what they acknowledge may be lost: it is seen below
        known = set(self.core.jobs)  # before the read: some may end meanwhile
        pending = await self.channel.read_all("0", CATCH_UP_COUNT)
        unseen, effects = self.core.catch_up([(item.id, item.fields) for item in pending], known)
        self.perform(effects)
        new = await self.channel.read_all(">", CATCH_UP_COUNT)
        self.perform(self.core.receive([*unseen, *((item.id, item.fields) for item in new)]))

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what the core asks for, in order; start a task for what takes time."""
        for effect in effects:
            match effect:
                case Begin(job):
                    work = self._work_of(job)
                    self._start(job.work_id, work, partial(self._ended, job))
                case Stop(work_id):
                    self._tasks[work_id].cancel()
                case Write(job, result):
                    if result.head.op == "failed":  # its message may quote the request
                        log.info("%s failed: %s", named(job.head), result.head.code)
                    written = self.results.write(result.head, result.body)
                    self._start(job.work_id, written, partial(self._written, job))
                case Acknowledge(work_id, unreadable):
                    if unreadable:
                        log.error("work entry %s cannot be read: left out", work_id)
                    self.channel.settle(work_id)
                    self._settled.set()

    def _start(
        self, work_id: str, work: Coroutine[Any, Any, Any], then: Callable[[asyncio.Task[Any]], None]
    ) -> None:
        task = self._tasks[work_id] = asyncio.create_task(work)
        task.add_done_callback(then)

    def _work_of(self, job: Job) -> Coroutine[Any, Any, Done]:
        """Return what carries a job out."""
        match job.head.op:
            case "run":
                return self._run(job)
            case "pull" | "remove":
                return self._on_disk(job)
            case _:
                return self._set_loaded(job)

    def _ended(self, job: Job, task: asyncio.Task[Done]) -> None:
        """Tell the core how a job came out, also one that was cancelled before its task had begun."""
        del self._tasks[job.work_id]
        if task.cancelled() and job.phase is not Phase.STOPPING and self._stops:
            return  # the entry stays pending, and the next start reports it
        self.core.engine = self.backend.engine
        self.perform(self.core.ended(job.work_id, outcome_of(job, task)))

    def _written(self, job: Job, task: asyncio.Task[None]) -> None:
        """Tell the core that a result is in the stream."""
        del self._tasks[job.work_id]
        if not task.cancelled():
            task.result()
            self.perform(self.core.written(job.work_id))

    async def _run(self, job: Job) -> Done:
        """Run a request. Pass its first token on at once, the others joined for `token_flush_ms`, and say
        before that it runs. An answer that does not stream and is ready sooner is announced by its end
        alone. Raises RunFailedError."""
        try:
            entry = requests_replies.parse_request(requests_replies.decode_fields(job.fields))
        except ContractError as error:
            raise RunFailedError("refused", "request", str(error)) from error
        entry = structs.replace(
            entry, model=job.head.model or entry.model
        )  # as this node's Ollama lists it
        entry = await self._with_parts(job, entry)
        answer = Answer(job.work_id)
        has_started = False

        async def pass_on() -> None:
            nonlocal has_started
            self.core.engine = self.backend.engine
            if not has_started:
                has_started = True
                log.debug("%s runs on %s", named(job.head), job.head.model)
                started = self.core.started(job)
                await self.results.write(started.head, started.body)
            if entry.stream:
                await self._pass_on(job, answer)

        passing = Repeater(pass_on, self.config.limits.token_flush_ms / 1000)
        try:
            usage = await self._consume(job, entry, answer, passing.begin if entry.stream else None)
        finally:
            await passing.close()
        if entry.stream:
            await self._pass_on(job, answer)
        log.debug("%s done: %d tokens in %d ms", named(job.head), usage.tokens, usage.total_ms)
        return Done(usage, answer.body())

    async def _with_parts(
        self, job: Job, entry: requests_replies.RequestEntry
    ) -> requests_replies.RequestEntry:
        """Return the request with its images. Raises RunFailedError."""
        limit_ms = self.config.policy.attempt_deadline_ms
        try:
            async with asyncio.timeout(limit_ms / 1000):
                return await self.parts.whole(entry, client_of(job.head.request))
        except TimeoutError:
            raise RunFailedError("overdue", "node", f"no parts within {limit_ms} ms") from None

    async def _consume(
        self,
        job: Job,
        entry: requests_replies.RequestEntry,
        answer: Answer,
        begun: Callable[[], None] | None,
    ) -> Usage:
        """Take the answer in, within all deadlines; `begun` is called at its first piece. Raises
        RunFailedError."""
        limits, policy = self.config.limits, self.config.policy
        patience_ms, total_ms = limits.load_deadline_ms, policy.attempt_deadline_ms
        now = asyncio.get_running_loop().time
        began_s = now()
        overdue_s = began_s + total_ms / 1000
        first_ms = 0
        stream = self.backend.run(entry, job.head)
        try:
            async with asyncio.timeout_at(min(now() + patience_ms / 1000, overdue_s)) as limit:
                while answer.usage is None:
                    piece = await anext(stream, None)
                    if piece is None:
                        raise RunFailedError("no_done", "node", "Ollama ended without `done`", True)
                    answer.add(piece)
                    if not first_ms and answer.has_begun:
                        first_ms = ceil((now() - began_s) * 1000)
                        if begun is not None:
                            begun()
                    if answer.bytes > limits.answer_max_bytes:
                        what = requests_replies.CODES["answer_too_large"]
                        raise RunFailedError("answer_too_large", "request", what)
                    patience_ms = limits.inter_token_ms
                    limit.reschedule(min(now() + patience_ms / 1000, overdue_s))
                return plausible(
                    structs.replace(answer.usage, first_token_ms=first_ms),
                    waited_ms=ceil((now() - began_s) * 1000),
                    tokens_max=tokens_allowed(entry.options or {}, limits.num_predict_max),
                    prompt_bytes=sum(map(len, job.fields.values())),
                )
        except TimeoutError:
            if now() < overdue_s:
                what = f"Ollama said nothing for {patience_ms} ms"
                raise RunFailedError("stalled", "node", what, breaks_model=True) from None
            raise RunFailedError("overdue", "node", f"no answer within {total_ms} ms") from None
        finally:
            await stream.aclose()  # closing the connection cancels the run

    async def _pass_on(self, job: Job, answer: Answer) -> None:
        """Write what has come since, if anything."""
        if piece := answer.unsent():
            tokens = self.core.passed_on(job, piece)
            await self.results.write(tokens.head, tokens.body)

    async def _set_loaded(self, job: Job) -> Done:
        """Load or unload a model, within its deadline. Raises RunFailedError."""
        head = job.head
        limit_ms, now = self.config.limits.load_deadline_ms, asyncio.get_running_loop().time
        began_s = now()
        try:
            async with asyncio.timeout(limit_ms / 1000):
                if head.op == "load":
                    await self.backend.load(head.model, head.options)
                else:
                    await self.backend.unload(head.model)
        except TimeoutError:
            what = f"no end of the {head.op} within {limit_ms} ms"
            raise RunFailedError("load_overdue", "node", what, breaks_model=True) from None
        took_ms = round((now() - began_s) * 1000)
        log.info("%s took %d ms", named(head), took_ms)
        return Done(Usage(load_ms=took_ms, total_ms=took_ms))

    async def _on_disk(self, job: Job) -> Done:
        """Pull or remove a model. Raises RunFailedError."""

        async def tell(fields: dict[str, bytes]) -> None:
            progress = self.core.progress(job, fields)
            await self.results.write(progress.head, progress.body)

        if job.head.op == "pull":
            await self.disk.pull(job.head.model, tell)
        else:
            await self.disk.remove(job.head.model)
        await self.disk.changed()
        log.info("%s done", named(job.head))
        return Done()

    async def drain(self) -> None:
        """Begin nothing more, give what runs `drain_ms` to end, and hand back the rest."""
        drain_ms = self.config.limits.drain_ms
        self.perform(self.core.drain())
        if self.core.jobs:
            log.info("leaving: %d in hand, for at most %d ms", len(self.core.jobs), drain_ms)
        await self.is_empty(drain_ms / 1000)
        self.perform(self.core.let_go())
        await self.is_empty()

    async def is_empty(self, within_s: float = HAND_BACK_S) -> bool:
        """Wait until nothing is in hand, and say whether that came to be."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.core.jobs:
                    self._settled.clear()
                    await self._settled.wait()
        return not self.core.jobs

    async def stop(self) -> None:
        """Let go of what runs: it stays pending and is reported at the next start."""
        self._stops = True
        while self._tasks:
            for task in self._tasks.values():
                task.cancel()  # once more if the first found it waiting for Redis
            await asyncio.wait(self._tasks.values(), timeout=STOP_STEP_S)
        with suppress(RedisError, OSError):  # else the next start reports them, which changes nothing
            await self.channel.acknowledge()


def outcome_of(job: Job, task: asyncio.Task[Done]) -> Outcome:
    """Read how the task of a job came out. Whatever went wrong, the router must not wait for a result."""
    head = job.head
    if task.cancelled() and job.phase is Phase.STOPPING:
        return CANCELLED
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, RunFailedError):
        log.error("%s: %s", named(head), type(error).__name__)
        what = f"the agent failed: {type(error).__name__}"
        error = RunFailedError("agent_error", "ours", what)
    if head.op == "unload":  # it has no result that would be logged
        log.info("%s failed: %s", named(head), error.code)
    return error


def named(head: WorkHead) -> str:
    """Name work in the log."""
    return f"{head.request} attempt {head.attempt}" if head.op == "run" else f"{head.op} of {head.model}"
