"""Agents: the product's worker core on the virtual clock and a simulated Ollama.

Around it stand a reader, a writer and health, small ones that follow the protocol of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from orion_streams.agents.backend import Listing, RunFailedError
from orion_streams.agents.health import InventoryNews
from orion_streams.agents.job import Job, Phase
from orion_streams.agents.worker_core import (
    CANCELLED,
    CATCH_UP_COUNT,
    Acknowledge,
    Begin,
    Done,
    Effect,
    Entry,
    Result,
    Stop,
    WorkerCore,
    Write,
)
from orion_streams.config import Config
from orion_streams.model.measured import Usage
from orion_streams.protocol import agent_entries
from tests.cluster.cluster_faults import RATES
from tests.cluster.cluster_house import HEALTH_MS, pieces_of
from tests.cluster.cluster_machine import Machine
from tests.cluster.cluster_server import Item, Line, Server
from tests.cluster.world_clock import Reader, World

COUNT, BATCH = 64, 64
BLOCK_MS, PAUSE_MS, WAKE_MS = 2_000, 200, 3
UNLOAD_MS = 60
FAILURES = {
    "error": RunFailedError("ollama_error", "node", "scripted", breaks_model=True),
    "busy": RunFailedError("ollama_busy", "node", "scripted"),
    "away": RunFailedError("ollama_unreachable", "node", "scripted"),
    "cut": RunFailedError("no_done", "node", "scripted", breaks_model=True),
    "hang": RunFailedError("overdue", "node", "scripted"),
    "refused": RunFailedError("refused", "request", "scripted"),
}
MISSING = RunFailedError("model_missing", "node", "scripted")
LOADED = Done(Usage(load_ms=50, total_ms=50))


class Agent:
    """One node's agent. `began` is called with each run that begins to generate."""

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
        """Start a process, which remembers nothing."""
        self.is_alive = True
        self.boots += 1
        self.core = WorkerCore(self.rules.slots)
        self.last_result = ""
        self._acks: list[str] = []
        self._waiting: list[tuple[dict[str, bytes], Callable[[], None]]] = []
        self._is_sending = False
        self._behind = True
        self._news = InventoryNews()
        if self.rules.inference:
            self._reader.start()
        self._beat()

    def kill(self) -> None:
        """End the process; its Ollama lets go of what it ran."""
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
        """Note what was read and written before looking at the machine: nothing newer is claimed."""
        self._after(HEALTH_MS, self._beat)
        slow = self.rng.random() < 0.05
        self._after(
            self.rng.randint(100, 900) if slow else 2, self._look, self.core.work_read, self.last_result
        )

    def _look(self, work_read: str, results_written: str) -> None:
        machine = self.machine
        machine.look()
        known = machine.failing != "away"  # the robot has an Ollama, too: it tempts
        installed = Listing(tuple(machine.installed.values())) if known else None
        digest, inventory = self._news.to_tell(installed, self.world.now_ms / 1000)
        head = agent_entries.HealthHead(
            boot=f"{self.name} {self.boots}",
            sampled_ms=self.world.now_ms,
            temp_mc=machine.temp_mc,
            ram_used_mb=machine.ram_used_mb,
            ram_total_mb=machine.ram_total_mb,
            cpu_permille=100,
            resident=self.core.working(machine.rows()) if known else (),
            inventory_digest=digest,
            inventory=inventory,
            in_hand=self.core.in_hand,
            work_read=work_read,
            results_written=results_written,
        )
        raw = agent_entries.encode_head(head)
        if self.line.strikes("malformed_health", RATES.malformed_health):
            raw = self.rng.choice((b"", b"\xff", raw[:-9], b"[" * 5_000))
        keep = self.config.retention.health_entries
        self.line.ask(lambda: self.server.put(f"health:{self.name}", {"head": raw}, keep), self._told, True)

    def _told(self, entry_id: str | None) -> None:
        if entry_id is None:
            self._news.tell_anew()

    # work

    def _read(self) -> None:
        known, behind = set(self.core.jobs), self._behind
        if behind:
            self._news.tell_anew()
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
        entries: list[Entry] = [*new]
        if self._behind:
            self._behind = False
            unseen, effects = self.core.catch_up(pending, known)
            self.perform(effects)
            entries = [*unseen, *new]
        self.perform(self.core.receive(entries))
        self._reader.done(bool(entries))

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what the core asks for, in virtual time."""
        for effect in effects:
            match effect:
                case Begin(job):
                    self._begin(job)
                case Stop(work_id):
                    self.perform(self.core.ended(work_id, CANCELLED))
                case Write(job, result):
                    self._say(result, partial(self._written, job.work_id))
                case Acknowledge(work_id):
                    self._acks.append(work_id)

    def _written(self, work_id: str) -> None:
        self.perform(self.core.written(work_id))

    def _ended(self, job: Job, outcome: Done | RunFailedError) -> None:
        if job.phase is Phase.RUNNING:
            self.perform(self.core.ended(job.work_id, outcome))

    # Ollama

    def _begin(self, job: Job) -> None:
        match job.head.op:
            case "unload":
                self._after(UNLOAD_MS, self._unloaded, job)
            case "load":
                self._after(self._load(job), self._ended, job, LOADED)
            case _:
                self._run(job)

    def _load(self, job: Job) -> int:
        return self.machine.load_ms(job.head.model, job.head.options.get("num_ctx", 0))

    def _unloaded(self, job: Job) -> None:
        self.machine.resident.pop(job.head.model, None)
        self._ended(job, Done())

    def _run(self, job: Job) -> None:
        self.began(job.work_id)
        failing = "refused" if job.fields.get(b"system") == b"refuse" else self.machine.failing
        if job.head.model not in self.machine.installed:
            self._after(5, self._ended, job, MISSING)
            return
        if failing in ("error", "busy", "away", "refused"):
            self._after(5, self._ended, job, FAILURES[failing])
            return
        first_ms = self._load(job) + 30
        self._after(first_ms, self._started, job)
        if failing == "hang":
            self._after(self.config.policy.attempt_deadline_ms, self._ended, job, FAILURES[failing])
            return
        step_ms = self.rng.randint(10, 150)
        pieces = pieces_of(job.head.request, job.work_id)
        for n, piece in enumerate(pieces, start=1):
            if n == 2 and failing == "cut":
                self._after(first_ms + n * step_ms, self._ended, job, FAILURES[failing])
                return
            if job.fields.get(b"stream") == b"1":
                self._after(first_ms + n * step_ms, self._pass_on, job, piece)
        usage = Usage(len(pieces), prompt_tokens=5, prefill_ms=5, decode_ms=50, total_ms=60)
        answer = Done(usage, {"text": b"".join(pieces)})
        self._after(first_ms + 1 + len(pieces) * step_ms, self._ended, job, answer)

    def _started(self, job: Job) -> None:
        if job.phase is Phase.RUNNING:
            self._say(self.core.started(job), _nothing)

    def _pass_on(self, job: Job, piece: bytes) -> None:
        if job.phase is Phase.RUNNING:
            self._say(self.core.passed_on(job, {"text": piece}), _nothing)

    # results

    def _say(self, result: Result, then: Callable[[], None]) -> None:
        self._waiting.append(({"head": agent_entries.encode_head(result.head), **result.body}, then))
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


def _nothing() -> None:
    """Do nothing: nobody waits for it."""
