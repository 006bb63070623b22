"""A node's worker: runs what the router sends, streams what comes back, and says how it ended.

Every run and every load ends in exactly one result, completed or failed, and is acknowledged after that.
Success is a `done` chunk only. What was delivered to an agent that died is reported `agent_restarted`,
never run again; what comes to the same agent twice, as its server lost its tail, ends once more as it did.
Room is made before it is taken: runs and loads begin when every unload that was read before them has been
carried out, or has failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

import msgspec
from redis.exceptions import RedisError

from orion_streams.agents.answer import Answer, Repeater
from orion_streams.agents.backend import Backend, RunFailedError
from orion_streams.agents.results import ResultWriter
from orion_streams.config import Config
from orion_streams.errors import ContractError
from orion_streams.model.usage import Usage
from orion_streams.protocol import agent_entries, requests_replies
from orion_streams.runtime.faust_redis import Item, StreamChannel

log = logging.getLogger("orion.agent")

CATCH_UP_COUNT = 1000
STOP_STEP_S = 0.2
CANCELLED = "cancelled by the router"
SEEN = 2 * CATCH_UP_COUNT
"""Work entries that are known again when they come once more."""
REMEMBERED, REMEMBERED_BYTES = 16, 8 * 2**20
"""Ends that may have to be written again; of one that is older it is said that it was lost."""
WORK, CANCEL = (b'{"op":"run"', b'{"op":"load"', b'{"op":"unload"'), b'{"op":"cancel"'
Outcome = tuple[agent_entries.ResultHead, dict[str, bytes]]
Tasks = Collection[asyncio.Task[None]]


class Worker:
    """Runs of one node, at most `slots` at a time; loads and unloads beside them."""

    def __init__(
        self, config: Config, node: str, channel: StreamChannel, results: ResultWriter, backend: Backend
    ) -> None:
        self.config, self.node = config, node
        self.channel, self.results, self.backend = channel, results, backend
        self.in_hand: dict[str, asyncio.Task[None] | None] = {}  # None: not to be cancelled (yet, any more)
        self.work_read = ""
        self.broken: set[str] = set()
        self._withdrawn: set[str] = set()
        self._seen: dict[str, bytes] = {}
        self._begun: set[str] = set()  # of what is in hand
        self._ends: dict[str, Outcome] = {}
        self._ends_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unloads: set[asyncio.Task[None]] = set()
        self._restarted = True
        self._slots = asyncio.Semaphore(config.node(node).slots)

    def noticed(self, item: Item) -> None:
        """An item was read: from now on health lists it, unless it is a cancel. Work whose cancel was read
        before it has begun does not begin."""
        raw = item.fields.get(b"head", b"")
        if self._seen.get(item.id) == raw:  # by its content: a server that lost its tail gives ids again
            return
        self.remember(item.id, raw)
        if raw.startswith(WORK):
            self.in_hand.setdefault(item.id, None)
        elif raw.startswith(CANCEL) and (head := decode(item)) is not None:
            self.withdraw(head.work_id)

    def drained(self, work_id: str) -> None:
        """Nothing waits, and nothing up to this id ever comes: what was sent before its group was lost and
        made anew counts as read, and is missed."""
        self.work_read = work_id or self.work_read

    def remember(self, work_id: str, head: bytes) -> None:
        """It was read."""
        self.work_read = work_id
        self._seen[work_id] = head
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    def withdraw(self, work_id: str) -> None:
        """Whatever ends this work, if it is still in hand, it was cancelled."""
        if work_id in self.in_hand:
            self._withdrawn.add(work_id)

    async def catch_up(self) -> None:
        """Read the stream to its end before anything runs. What was delivered before is pending: by a
        former process it may have run, so it failed; otherwise nobody saw it yet, or its end was lost."""
        self.channel.settled.clear()  # what they acknowledge may be lost: it is seen below
        known = set(self.in_hand)  # before the read: some may end meanwhile
        pending = [
            item for item in await self.channel.read("0", CATCH_UP_COUNT, None) if item.id not in known
        ]
        if self._restarted:
            for item in pending:
                await self.report_restart(item)
            self._restarted, pending = False, []
        waiting = pending + await self.channel.read(">", CATCH_UP_COUNT, None)
        for item in waiting:
            self.noticed(item)
        for item in waiting:
            await self.handle(item)

    async def report_restart(self, item: Item) -> None:
        """End what a former process of this agent left behind."""
        self.remember(item.id, item.fields.get(b"head", b""))
        head = decode(item)
        if head is not None and head.op in ("run", "load"):
            error = RunFailedError("agent_restarted", "node", "the agent of this node was restarted")
            await self.results.write(*self.failed(head, item.id, error))
        await item.ack()

    async def end_again(self, item: Item) -> None:
        """Say once more how it ended, if it did."""
        if item.id in self.in_hand:
            return  # its one end acknowledges all copies
        head = decode(item)
        if head is not None and head.op in ("run", "load"):
            what = "the server lost what this node had said of it"
            lost = RunFailedError("agent_restarted", "node", what)
            await self.results.write(*(self._ends.get(item.id) or self.failed(head, item.id, lost)))
        await item.ack()

    def keep_end(self, work_id: str, outcome: Outcome) -> None:
        """It may have to be written again."""
        if work_id in self._ends:
            self._ends_bytes -= size_of(self._ends.pop(work_id))
        self._ends[work_id] = outcome
        self._ends_bytes += size_of(outcome)
        while len(self._ends) > REMEMBERED or self._ends_bytes > REMEMBERED_BYTES:
            self._ends_bytes -= size_of(self._ends.pop(next(iter(self._ends))))

    async def handle(self, item: Item) -> None:
        """Dispatch an item; work goes on in a task of its own."""
        head = decode(item)
        if head is None:
            log.error("work entry %s cannot be read: left out", item.id)
            self.in_hand.pop(item.id, None)
            await item.ack()
        elif head.op == "cancel":
            self.withdraw(head.work_id)
            task = self.in_hand.get(head.work_id)
            if task is not None:
                task.cancel()
            await item.ack()
        elif item.id in self.in_hand and item.id not in self._begun:
            self.begin(head, item)
        else:
            await self.end_again(item)

    def begin(self, head: agent_entries.WorkHead, item: Item) -> None:
        """Start the task of a run, a load or an unload."""
        self._begun.add(item.id)
        room = () if head.op == "unload" else tuple(self._unloads)
        task = asyncio.create_task(self.work(head, item, room))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if head.op == "unload":
            self._unloads.add(task)
            task.add_done_callback(self._unloads.discard)

    async def work(self, head: agent_entries.WorkHead, item: Item, room: Tasks) -> None:
        """One run, load or unload, from its turn to its end. Of an unload there is no result."""
        # from here on it can be cancelled: a task that has not begun would end without a result
        self.in_hand[item.id] = None if item.id in self._withdrawn else asyncio.current_task()
        try:
            outcome = await self.outcome(head, item, room)
            self.in_hand[item.id] = None  # from here on it has its end: a cancel comes too late
            if head.op != "unload":
                self.keep_end(item.id, outcome)
                await self.results.write(*outcome)
            await item.ack()
        finally:
            self.in_hand.pop(item.id, None)
            self._begun.discard(item.id)
            self._withdrawn.discard(item.id)

    async def outcome(self, head: agent_entries.WorkHead, item: Item, room: Tasks) -> Outcome:
        """How it ends, once the unloads that make `room` have ended. CancelledError when the agent stops:
        the entry stays pending, and the next start reports it."""
        try:
            if item.id in self._withdrawn:
                raise RunFailedError("cancelled", "ours", CANCELLED)
            await ended(room)
            outcome = await (self.attempt if head.op == "run" else self.set_loaded)(head, item)
        except asyncio.CancelledError:
            if item.id not in self._withdrawn:
                raise
            return self.failed(head, item.id, RunFailedError("cancelled", "ours", CANCELLED))
        except RunFailedError as error:
            if error.breaks_model and head.op != "unload":
                self.broken.add(head.model)
            return self.failed(head, item.id, error)
        except Exception as error:  # whatever it is, the router must not wait for a result
            log.error("%s: %s", named(head), type(error).__name__)
            what = f"the agent failed: {type(error).__name__}"
            return self.failed(head, item.id, RunFailedError("agent_error", "ours", what))
        self.broken.discard(head.model)
        return outcome

    async def attempt(self, head: agent_entries.WorkHead, item: Item) -> Outcome:
        """Wait for a slot and run it. Raises RunFailedError."""
        try:
            fields = requests_replies.decode_fields(item.fields)
            entry = requests_replies.parse_request(fields)
        except ContractError as error:
            raise RunFailedError("refused", "request", str(error)) from error
        async with self._slots:
            answer = await self.answered(head, item.id, entry)
        return self.completed(head, item.id, answer), answer.body()

    async def answered(
        self, head: agent_entries.WorkHead, work_id: str, entry: requests_replies.RequestEntry
    ) -> Answer:
        """The whole answer. While it grows it is said that it runs, and tokens are passed on, joined for
        `token_flush_ms`; one that is ready sooner is announced by its end alone."""
        answer = Answer()
        started = False

        async def pass_on() -> None:
            nonlocal started
            if not started:
                started = True
                log.debug("%s runs on %s", named(head), head.model)
                await self.results.write(self.result("started", head, work_id))
            if entry.stream:
                await self.pass_on(head, work_id, answer)

        passing = Repeater(pass_on, self.config.limits.token_flush_ms / 1000)
        try:
            await self.consume(head, entry, answer)
        finally:
            await passing.close()
        if entry.stream:
            await self.pass_on(head, work_id, answer)
        return answer

    async def consume(
        self, head: agent_entries.WorkHead, entry: requests_replies.RequestEntry, answer: Answer
    ) -> None:
        """Take the answer in, within all deadlines. Raises RunFailedError."""
        limits, policy = self.config.limits, self.config.policy
        patience_ms, total_ms = limits.load_deadline_ms, policy.attempt_deadline_ms
        now = asyncio.get_running_loop().time
        overdue_s = now() + total_ms / 1000
        stream = self.backend.run(entry, head.options)
        try:
            async with asyncio.timeout_at(min(now() + patience_ms / 1000, overdue_s)) as limit:
                while answer.usage is None:
                    piece = await anext(stream, None)
                    if piece is None:
                        raise RunFailedError("no_done", "node", "Ollama ended without `done`", True)
                    answer.add(piece)
                    if answer.bytes > limits.answer_max_bytes:
                        what = requests_replies.CODES["answer_too_large"]
                        raise RunFailedError("answer_too_large", "request", what)
                    patience_ms = limits.inter_token_ms
                    limit.reschedule(min(now() + patience_ms / 1000, overdue_s))
        except TimeoutError:
            if now() < overdue_s:
                what = f"Ollama said nothing for {patience_ms} ms"
                raise RunFailedError("stalled", "node", what, breaks_model=True) from None
            raise RunFailedError("overdue", "node", f"no answer within {total_ms} ms") from None
        finally:
            await stream.aclose()  # closing the connection cancels the run

    async def pass_on(self, head: agent_entries.WorkHead, work_id: str, answer: Answer) -> None:
        """Write the text that has come since, if any."""
        piece = answer.unsent()
        if piece:
            answer.passed_on += 1
            result = self.result("tokens", head, work_id, seq=answer.passed_on)
            await self.results.write(result, {"text": piece.encode()})

    async def set_loaded(self, head: agent_entries.WorkHead, item: Item) -> Outcome:
        """Load or unload a model, which takes no slot. Return how long it took. Raises RunFailedError."""
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
        result = self.result("completed", head, item.id)
        usage = Usage(load_ms=took_ms, total_ms=took_ms)
        return msgspec.structs.replace(result, **usage.fields()), {}

    def failed(self, head: agent_entries.WorkHead, work_id: str, error: RunFailedError) -> Outcome:
        """A failed result. Its message may quote the request, so the log gets the code alone."""
        log.info("%s failed: %s", named(head), error.code)
        result = msgspec.structs.replace(
            self.result("failed", head, work_id), code=error.code, blame=error.blame
        )
        return result, {"message": str(error).encode()}

    def completed(
        self, head: agent_entries.WorkHead, work_id: str, answer: Answer
    ) -> agent_entries.ResultHead:
        """The head of a completed result."""
        usage = answer.usage or Usage()
        log.debug("%s done: %d tokens in %d ms", named(head), usage.tokens, usage.total_ms)
        return msgspec.structs.replace(self.result("completed", head, work_id), **usage.fields())

    def result(
        self, op: agent_entries.ResultOp, head: agent_entries.WorkHead, work_id: str, seq: int = 0
    ) -> agent_entries.ResultHead:
        """A result's head."""
        return agent_entries.ResultHead(op, head.request, head.attempt, work_id, seq, self.backend.engine)

    async def stop(self) -> None:
        """Let go of what runs: it stays pending and is reported at the next start."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()  # once more if the first found it waiting for Redis
            await asyncio.wait(self._tasks, timeout=STOP_STEP_S)
        with suppress(RedisError, OSError):  # else the next start reports them, which changes nothing
            await self.channel.acknowledge()


async def ended(tasks: Tasks) -> None:
    """Return when none of them goes on, whatever became of it."""
    if tasks:
        await asyncio.wait(tasks)


def size_of(outcome: Outcome) -> int:
    """About how many bytes of memory an end takes."""
    return sum(len(value) for value in outcome[1].values())


def named(head: agent_entries.WorkHead) -> str:
    """Work as the log calls it."""
    return f"{head.request} attempt {head.attempt}" if head.op == "run" else f"{head.op} of {head.model}"


def decode(item: Item) -> agent_entries.WorkHead | None:
    """The head of a work entry; None when it is none."""
    try:
        return agent_entries.decode_work(item.fields.get(b"head", b""))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
