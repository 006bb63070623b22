"""A node's worker: runs what the router sends, streams what comes back, and says how it ended.

Every run ends in exactly one result, completed or failed, and is acknowledged after that. Success is a
`done` chunk only. What was delivered to an agent that died is reported `agent_restarted`, never run again.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from orion_streams import contract, wire
from orion_streams.agents.answer import Answer, Repeater
from orion_streams.agents.backend import Backend, Chunk, RunFailed
from orion_streams.agents.results import ResultWriter
from orion_streams.channels import Item, StreamChannel
from orion_streams.config import Config
from orion_streams.errors import ContractError
from orion_streams.state import work_order

log = logging.getLogger("orion.agent")

CATCH_UP_COUNT = 1000


class Worker:
    """Runs of one node, at most `slots` at a time."""

    def __init__(
        self, config: Config, node: str, channel: StreamChannel, results: ResultWriter, backend: Backend
    ) -> None:
        self.config, self.node = config, node
        self.channel, self.results, self.backend = channel, results, backend
        self.in_hand: dict[str, asyncio.Task[None] | None] = {}
        self.work_read = ""
        self.broken: set[str] = set()
        self._slots = asyncio.Semaphore(config.node(node).slots)

    def noticed(self, item: Item) -> None:
        """An item was read: from now on health lists it, if it is a run."""
        self.work_read = item.id
        if item.fields.get(b"head", b"").startswith(b'{"op":"run"'):
            self.in_hand.setdefault(item.id, None)

    async def catch_up(self, first: bool) -> None:
        """Read the stream to its end before anything runs. What was delivered before is pending: by a
        former process it may have run, so it failed; otherwise nobody saw it yet."""
        pending = [
            item
            for item in await self.channel.read("0", CATCH_UP_COUNT, None)
            if item.id not in self.in_hand
        ]
        if first:
            for item in pending:
                await self.report_restart(item)
            pending = []
        waiting = pending + await self.channel.read(">", CATCH_UP_COUNT, None)
        for item in waiting:
            self.noticed(item)
        for item in waiting:
            await self.handle(item)

    async def report_restart(self, item: Item) -> None:
        """End what a former process of this agent left behind."""
        self.work_read = max(self.work_read, item.id, key=work_order)
        head = decode(item)
        if head is not None and head.op == "run":
            error = RunFailed("agent_restarted", "node", "the agent of this node was restarted")
            await self.fail(head, item.id, error)
        await item.ack()

    async def handle(self, item: Item) -> None:
        """Dispatch an item; runs and loads go on in tasks of their own."""
        head = decode(item)
        if head is None:
            log.error("work entry %s cannot be read: left out", item.id)
            await item.ack()
        elif head.op == "cancel":
            task = self.in_hand.get(head.work_id)
            if task is not None:
                task.cancel("cancelled")
            await item.ack()
        elif head.op == "run":
            self.in_hand[item.id] = asyncio.create_task(self.run(head, item))
        else:
            self.in_hand[item.id] = asyncio.create_task(self.set_loaded(head, item))

    async def run(self, head: wire.WorkHead, item: Item) -> None:
        """One attempt, from its slot to its one result."""
        try:
            try:
                await self.attempt(head, item)
            except asyncio.CancelledError as cancelled:
                if cancelled.args != ("cancelled",):
                    raise  # the agent stops: the entry stays pending, the next start reports it
                error = RunFailed("cancelled", "ours", "cancelled by the router")
                await self.fail(head, item.id, error)
            except RunFailed as error:
                if error.breaks_model:
                    self.broken.add(head.model)
                await self.fail(head, item.id, error)
            await item.ack()
        finally:
            self.in_hand.pop(item.id, None)

    async def attempt(self, head: wire.WorkHead, item: Item) -> None:
        """Run it and report it completed. Raises RunFailed."""
        try:
            fields = contract.decode_fields(item.fields)
            entry = contract.parse_request(fields)
        except ContractError as error:
            raise RunFailed("refused", "request", str(error)) from error
        async with self._slots:
            answer = await self.answered(head, item.id, entry)
        self.broken.discard(head.model)
        await self.results.write(self.completed(head, item.id, answer), answer.body())

    async def answered(self, head: wire.WorkHead, work_id: str, entry: contract.RequestEntry) -> Answer:
        """The whole answer. While it grows it is said that it runs, and tokens are passed on, joined for
        `token_flush_ms`; one that is ready sooner is announced by its end alone."""
        answer = Answer()
        started = False

        async def pass_on() -> None:
            nonlocal started
            if not started:
                started = True
                await self.results.write(self.result("started", head, work_id))
            if entry.stream:
                await self.pass_on(head, work_id, answer)

        passing = Repeater(pass_on, self.config.limits.token_flush_ms / 1000)
        try:
            await self.consume(entry, answer)
        finally:
            await passing.close()
        if entry.stream:
            await self.pass_on(head, work_id, answer)
        return answer

    async def consume(self, entry: contract.RequestEntry, answer: Answer) -> None:
        """Take the answer in, within all deadlines. Raises RunFailed."""
        limits, policy = self.config.limits, self.config.policy
        patience_ms, total_ms = limits.load_deadline_ms, policy.attempt_deadline_ms
        stream = self.backend.run(entry)
        try:
            async with asyncio.timeout(total_ms / 1000):
                while answer.end is None:
                    async with asyncio.timeout(patience_ms / 1000) as silence:
                        piece = await anext(stream, None)
                    patience_ms = limits.inter_token_ms
                    if piece is None:
                        raise RunFailed("no_done", "node", "Ollama ended without `done`", True)
                    answer.add(piece)
                    if answer.bytes > limits.answer_max_bytes:
                        what = contract.CODES["answer_too_large"]
                        raise RunFailed("answer_too_large", "request", what)
        except TimeoutError:
            if silence.expired():
                what = f"Ollama said nothing for {patience_ms} ms"
                raise RunFailed("stalled", "node", what, breaks_model=True) from None
            raise RunFailed("overdue", "node", f"no answer within {total_ms} ms") from None
        finally:
            await stream.aclose()  # closing the connection cancels the run

    async def pass_on(self, head: wire.WorkHead, work_id: str, answer: Answer) -> None:
        """Write the text that has come since, if any."""
        piece = answer.unsent()
        if piece:
            answer.passed_on += 1
            result = self.result("tokens", head, work_id, seq=answer.passed_on)
            await self.results.write(result, {"text": piece.encode()})

    async def set_loaded(self, head: wire.WorkHead, item: Item) -> None:
        """Load or unload a model; health shows what came of it."""
        try:
            await self.backend.set_loaded(head.model, head.op == "load")
            self.broken.discard(head.model)
        except RunFailed as error:
            log.warning("%s of %s failed: %s", head.op, head.model, error)
        finally:
            self.in_hand.pop(item.id, None)
        await item.ack()

    async def fail(self, head: wire.WorkHead, work_id: str, error: RunFailed) -> None:
        """Report a run failed."""
        log.info("%s attempt %d failed: %s", head.request, head.attempt, error.code)
        result = msgspec.structs.replace(
            self.result("failed", head, work_id), code=error.code, blame=error.blame
        )
        await self.results.write(result, {"message": str(error).encode()})

    def completed(self, head: wire.WorkHead, work_id: str, answer: Answer) -> wire.ResultHead:
        """The head of a completed result."""
        end = answer.end or Chunk()
        return msgspec.structs.replace(
            self.result("completed", head, work_id),
            tokens=end.tokens,
            prompt_tokens=end.prompt_tokens,
            load_ms=end.load_ms,
            prefill_ms=end.prefill_ms,
            decode_ms=end.decode_ms,
            total_ms=end.total_ms,
            done_reason=end.done_reason,
        )

    def result(self, op: wire.ResultOp, head: wire.WorkHead, work_id: str, seq: int = 0) -> wire.ResultHead:
        """A result's head."""
        return wire.ResultHead(op, head.request, head.attempt, work_id, seq, self.backend.engine)

    async def stop(self) -> None:
        """Let go of what runs: it stays pending and is reported at the next start."""
        tasks = [task for task in self.in_hand.values() if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def decode(item: Item) -> wire.WorkHead | None:
    """The head of a work entry; None when it is none."""
    try:
        return wire.decode_work(item.fields.get(b"head", b""))
    except msgspec.DecodeError:
        return None
