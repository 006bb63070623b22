"""Agents: small ones that follow the protocol of the real ones, entry for entry.

Work comes through a consumer group; what was delivered to an agent that died is reported as restarted;
results go out in order and are sent again after an unknown outcome; health is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.config import Config
from orion_streams.protocol import agent_entries
from orion_streams.protocol.ingest import inventory_digest
from tests.cluster.cluster_faults import RATES
from tests.cluster.cluster_house import HEALTH_MS, pieces_of
from tests.cluster.cluster_machine import Machine
from tests.cluster.cluster_server import Item, Line, Server
from tests.cluster.world_clock import Reader, World

CATCH_UP_COUNT, COUNT, BATCH = 1_000, 64, 64
SEEN, REMEMBERED = 2_000, 16
BLOCK_MS, PAUSE_MS, WAKE_MS = 2_000, 200, 3
UNLOAD_MS = 60
FULL_LIST_EVERY_MS = 60_000
FAILURES = {
    "error": ("ollama_error", "node"),
    "busy": ("ollama_busy", "node"),
    "away": ("ollama_unreachable", "node"),
    "cut": ("no_done", "node"),
    "hang": ("overdue", "node"),
    "refused": ("refused", "request"),
}


class Job(Struct, eq=False):
    """A run, load or unload in hand. `is_over`: its end is on its way, a cancel comes too late."""

    work_id: str
    head: agent_entries.WorkHead
    streams: bool = False
    refused: bool = False
    running: bool = False
    is_over: bool = False
    said: int = 0


class Agent:
    """One node's agent. `began` is told of each run that begins to generate."""

    def __init__(
        self, world: World, server: Server, config: Config, machine: Machine, began: Callable[[str], None]
    ) -> None:
        self.world, self.server, self.config, self.machine = world, server, config, machine
        self.name, self.began = machine.name, began
        self.rules = config.nodes[self.name]
        self.line = Line(world, server, self.name)
        self.rng = world.rng(f"agent {self.name}")
        self.is_alive = False
        self.boots = 0
        self.work, self.results = f"work:{self.name}", f"results:{self.name}"
        self._reader = Reader(world, self._read, WAKE_MS, BLOCK_MS)
        server.wakers.setdefault(self.work, []).append(self._reader.wake)

    # life

    def start(self) -> None:
        """A new process: it remembers nothing."""
        self.is_alive = True
        self.boots += 1
        self.work_read = self.last_result = ""
        self.in_hand: dict[str, Job] = {}
        self._withdrawn: set[str] = set()
        self._reporting: set[str] = set()
        self._seen: dict[str, bytes] = {}
        self._ends: dict[str, tuple[agent_entries.ResultHead, dict[str, bytes]]] = {}
        self._queue: list[Job] = []
        self._running = 0
        self._unloading = 0
        self._acks: list[str] = []
        self._waiting: list[tuple[dict[str, bytes], Callable[[], None]]] = []
        self._is_sending = False
        self._behind = self._restarted = True
        self._told, self._told_ms = "", 0
        if self.rules.inference:
            self._reader.start()
        self._beat()

    def kill(self) -> None:
        """The process ends; its Ollama lets go of what it ran."""
        self.is_alive = False
        self.line.forget()
        self._reader.stop()
        self.boots += 1  # what was to happen in the old process does not

    def _after(self, delay_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        self.world.at(delay_ms, self._in_life, self.boots, act, arguments)

    def _in_life(self, boot: int, act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if boot == self.boots and self.is_alive:
            act(*arguments)

    # health

    def _beat(self) -> None:
        """What was read and written is noted before the machine is looked at: nothing newer is claimed."""
        self._after(HEALTH_MS, self._beat)
        slow = self.rng.random() < 0.05
        self._after(self.rng.randint(100, 900) if slow else 2, self._look, self.work_read, self.last_result)

    def _look(self, work_read: str, results_written: str) -> None:
        machine = self.machine
        machine.look()
        known = machine.failing != "away"  # the robot has an Ollama, too: it tempts
        digest, inventory = self._to_tell() if known else ("", None)
        head = agent_entries.HealthHead(
            boot=f"{self.name} {self.boots}",
            sampled_ms=self.world.now_ms,
            temp_mc=machine.temp_mc,
            ram_used_mb=machine.ram_used_mb,
            ram_total_mb=machine.ram_total_mb,
            cpu_permille=100,
            resident=machine.rows() if known else (),
            inventory_digest=digest,
            inventory=inventory,
            in_hand=tuple(self.in_hand),
            work_read=work_read,
            results_written=results_written,
        )
        raw = agent_entries.encode_head(head)
        if self.line.strikes("malformed_health", RATES.malformed_health):
            raw = self.rng.choice((b"", b"\xff", raw[:-9], b"[" * 5_000))
        keep = self.config.retention.health_entries
        self.line.ask(lambda: self.server.put(f"health:{self.name}", {"head": raw}, keep), _ignore, True)

    def _to_tell(self) -> tuple[str, tuple[agent_entries.InstalledModel, ...] | None]:
        rows = tuple(self.machine.installed.values())
        digest, now_ms = inventory_digest(rows), self.world.now_ms
        if digest == self._told and now_ms - self._told_ms < FULL_LIST_EVERY_MS:
            return digest, None
        self._told, self._told_ms = digest, now_ms
        return digest, rows

    # work

    def _read(self) -> None:
        known, behind = {*self.in_hand, *self._reporting}, self._behind
        if behind:
            self._acks.clear()  # what they acknowledge may be lost: it is seen again
        acks = list(self._acks)
        count = CATCH_UP_COUNT if behind else COUNT
        self.line.ask(
            lambda: self.server.delivered(self.work, acks, behind, count),
            lambda answer: self._on_work(answer, len(acks), known),
        )

    def _on_work(self, answer: tuple[list[Item], ...] | None, acks: int, known: set[str]) -> None:
        if answer is None:
            self._behind = True
            self._reader.failed(PAUSE_MS)
            return
        del self._acks[:acks]
        pending, new = answer
        if self._behind:
            pending = [item for item in pending if item[0] not in known]
            if self._restarted:
                for work_id, fields in pending:
                    self._report_restart(work_id, fields)
                pending = []
            self._behind = self._restarted = False
        items = pending + new
        again = [each for each, fields in items if self._seen.get(each) == fields.get(b"head", b"")]
        fresh = [item for item in items if item[0] not in again]
        jobs = [(work_id, fields, self._noticed(work_id, fields)) for work_id, fields in fresh]
        for work_id, fields, head in jobs:
            self._handle(work_id, fields, head)
        for work_id in again:
            self._end_again(work_id)
        self._reader.done(bool(items))

    def _end_again(self, work_id: str) -> None:
        """The server lost its tail, and what was read comes once more: so does its end."""
        if work_id in self.in_hand:
            return
        head = agent_entries.decode_work(self._seen[work_id]) if self._seen[work_id] else None
        if head is None or head.op not in ("run", "load"):
            self._acks.append(work_id)
            return
        lost = agent_entries.ResultHead("failed", head.request, head.attempt, work_id)
        lost = replace(lost, code="agent_restarted", blame="node")
        result, body = self._ends.get(work_id) or (lost, {})
        self._reporting.add(work_id)
        self._say(result, body, lambda: self._reported(work_id))

    def _noticed(self, work_id: str, fields: dict[bytes, bytes]) -> agent_entries.WorkHead | None:
        self._remember(work_id, fields.get(b"head", b""))
        if not fields:
            return None  # trimmed away under its group
        head = agent_entries.decode_work(fields[b"head"])
        if head.op == "cancel":
            if head.work_id in self.in_hand:
                self._withdrawn.add(head.work_id)
        else:
            self.in_hand.setdefault(work_id, Job(work_id, head))
        return head

    def _remember(self, work_id: str, head: bytes) -> None:
        self.work_read = work_id
        self._seen[work_id] = head
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    def _report_restart(self, work_id: str, fields: dict[bytes, bytes]) -> None:
        self._remember(work_id, fields.get(b"head", b""))
        head = agent_entries.decode_work(fields[b"head"]) if fields else None
        if head is None or head.op not in ("run", "load"):
            self._acks.append(work_id)
            return
        result = agent_entries.ResultHead("failed", head.request, head.attempt, work_id)
        result = replace(result, code="agent_restarted", blame="node")
        self._reporting.add(work_id)
        self._say(result, {}, lambda: self._reported(work_id))

    def _reported(self, work_id: str) -> None:
        self._reporting.remove(work_id)
        self._acks.append(work_id)

    def _handle(
        self, work_id: str, fields: dict[bytes, bytes], head: agent_entries.WorkHead | None
    ) -> None:
        if head is None or head.op == "cancel":
            job = self.in_hand.get(head.work_id) if head is not None else None
            if job is not None:
                self._cancel(job)
            self._acks.append(work_id)
            return
        job = self.in_hand[work_id]
        job.streams = fields.get(b"stream") == b"1"
        job.refused = fields.get(b"system") == b"refuse"
        if work_id in self._withdrawn:
            self._fail(job, "cancelled", "ours")
        elif head.op == "unload":
            self._unloading += 1
            self._after(UNLOAD_MS, self._unloaded, job)
        elif head.op == "load":
            self._after(self._load(job), self._complete, job)
        else:
            self._queue.append(job)
            self._pump()

    def _load(self, job: Job) -> int:
        return self.machine.load_ms(job.head.model, job.head.options.get("num_ctx", 0))

    def _unloaded(self, job: Job) -> None:
        self.machine.resident.pop(job.head.model, None)
        self._unloading -= 1
        self._settle(job)
        self._pump()

    def _cancel(self, job: Job) -> None:
        if job.is_over or job.head.op == "unload":
            return
        if job in self._queue:
            self._queue.remove(job)
        self._fail(job, "cancelled", "ours")

    # runs

    def _pump(self) -> None:
        while self._queue and self._running < self.rules.slots and not self._unloading:
            job = self._queue.pop(0)
            job.running = True
            self._running += 1
            self._begin(job)

    def _begin(self, job: Job) -> None:
        self.began(job.work_id)
        failing = "refused" if job.refused else self.machine.failing
        if job.head.model not in self.machine.installed:
            self._after(5, self._fail, job, "model_missing", "node")
            return
        if failing in ("error", "busy", "away", "refused"):
            self._after(5, self._fail, job, *FAILURES[failing])
            return
        load_ms = self._load(job)
        self._after(load_ms + 30, self._started, job)
        if failing == "hang":
            self._after(self.config.policy.attempt_deadline_ms, self._fail, job, *FAILURES[failing])
            return
        step_ms = self.rng.randint(10, 150)
        for n in range(1, len(pieces_of(job.head.request, job.work_id)) + 1):
            if n == 2 and failing == "cut":
                self._after(load_ms + 30 + n * step_ms, self._fail, job, *FAILURES[failing])
                return
            if job.streams:
                self._after(load_ms + 30 + n * step_ms, self._pass_on, job, n)
        self._after(load_ms + 31 + n * step_ms, self._complete, job)

    def _started(self, job: Job) -> None:
        if not job.is_over:
            self._say(
                agent_entries.ResultHead("started", job.head.request, job.head.attempt, job.work_id),
                {},
                _nothing,
            )

    def _pass_on(self, job: Job, seq: int) -> None:
        if not job.is_over:
            result = agent_entries.ResultHead(
                "tokens", job.head.request, job.head.attempt, job.work_id, seq
            )
            piece = pieces_of(job.head.request, job.work_id)[seq - 1]
            self._say(result, {"text": piece}, _nothing)

    def _complete(self, job: Job) -> None:
        if job.is_over:
            return
        result = agent_entries.ResultHead("completed", job.head.request, job.head.attempt, job.work_id)
        if job.head.op == "load":
            self._end(job, replace(result, load_ms=50, total_ms=50), {})
            return
        pieces = pieces_of(job.head.request, job.work_id)
        counts = {
            "tokens": len(pieces),
            "prompt_tokens": 5,
            "prefill_ms": 5,
            "decode_ms": 50,
            "total_ms": 60,
        }
        self._end(job, replace(result, **counts), {"text": b"".join(pieces)})

    def _fail(self, job: Job, code: str, blame: str) -> None:
        if not job.is_over:
            result = agent_entries.ResultHead("failed", job.head.request, job.head.attempt, job.work_id)
            self._end(job, replace(result, code=code, blame=blame), {"message": b"it failed"})

    def _end(self, job: Job, result: agent_entries.ResultHead, body: dict[str, bytes]) -> None:
        job.is_over = True
        if job.running:
            self._running -= 1
        self._ends[job.work_id] = result, body
        if len(self._ends) > REMEMBERED:
            del self._ends[next(iter(self._ends))]
        self._say(result, body, lambda: self._settle(job))
        self._pump()

    def _settle(self, job: Job) -> None:
        self.in_hand.pop(job.work_id, None)
        self._withdrawn.discard(job.work_id)
        self._acks.append(job.work_id)

    # results

    def _say(
        self, head: agent_entries.ResultHead, body: dict[str, bytes], then: Callable[[], None]
    ) -> None:
        self._waiting.append(({"head": agent_entries.encode_head(head), **body}, then))
        if not self._is_sending:
            self._is_sending = True
            self._after(0, self._send)

    def _send(self) -> None:
        batch = [fields for fields, _ in self._waiting[:BATCH]]
        keep = self.config.retention.results_entries

        def write() -> list[str]:
            return [self.server.put(self.results, fields, keep) for fields in batch]

        self.line.ask(write, lambda ids: self._on_written(ids, len(batch)), True)

    def _on_written(self, ids: list[str] | None, count: int) -> None:
        if ids is None:
            self._after(PAUSE_MS, self._send)
            return
        self.last_result = ids[-1]
        written, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, then in written:
            then()
        if self._waiting:
            self._send()
        else:
            self._is_sending = False


def _ignore(answer: object) -> None:
    """A health entry that is lost heals with the next."""


def _nothing() -> None:
    """Nobody waits for it."""
