"""The worker without I/O: what an agent does with its work entries, on any clock and any transport.

Whoever runs this core (agents/worker.py on Redis and Ollama, the simulated cluster on a virtual clock)
hands in what happened and performs the effects that come back, in order; effects that take time end in a
further input. Each entry is noticed as it is read and taken up in its turn; a run, load or unload is one
`Job` from then on (agents/job.py has its phases). The rules:

- Every run and load ends in exactly one result, completed or failed, and is acknowledged once that is
  written. An unload has no result: health shows what came of it.
- Loads and unloads take no slot. An unload begins at once; what was read after it begins when it has ended.
- Pulls and removals take no slot, and go one at a time; each ends in one result, as a load does.
- What was delivered to a former process may have run: it ends as `agent_restarted` and does not run again.
- A server that lost its tail delivers again what was read. Nothing begins twice: work in hand has its one
  end still before it, and work that was over ends once more as it did, or as lost where that is forgotten.
- An agent that leaves begins nothing more: what has not begun, and whatever it reads from then on, is
  handed back as `agent_leaving`, and so is in the end what still runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.agents.backend import RunFailedError
from orion_streams.agents.job import Input, Job, Phase
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import ResidentModel, ResultHead, ResultOp, WorkHead, decode_work

CATCH_UP_COUNT = 1000
SEEN = 2 * CATCH_UP_COUNT
"""Work entries that are recognised when they are delivered again."""
REMEMBERED, REMEMBERED_BYTES = 16, 8 * 2**20
"""Ends that may have to be written again; of one that is older it is said that it was lost."""
HAVE_RESULTS = ("run", "load", "pull", "remove")
CANCELLED = RunFailedError("cancelled", "ours", "cancelled by the router")
RESTARTED = RunFailedError("agent_restarted", "node", "the agent of this node was restarted")
LEAVING = RunFailedError("agent_leaving", "ours", "the agent of this node is leaving")
LOST = RunFailedError("agent_restarted", "node", "the server lost what this node had said of it")

Entry = tuple[str, Mapping[bytes, bytes]]
"""An entry's id and its fields."""


class Done(Struct, frozen=True):
    """A run or load that succeeded: what it took, and the fields of its answer."""

    usage: Usage = Usage()
    body: dict[str, bytes] = {}


class Result(Struct, frozen=True):
    """An entry of `results:<node>`."""

    head: ResultHead
    body: dict[str, bytes] = {}


class Begin(Struct, frozen=True):
    """Carry the job out, and hand in `ended`."""

    job: Job


class Stop(Struct, frozen=True):
    """Let go of what was begun, and hand in `ended`, with CANCELLED unless it had ended before."""

    work_id: str


class Write(Struct, frozen=True):
    """Write the job's one result, for as long as it takes, and hand in `written`."""

    job: Job
    result: Result


class Acknowledge(Struct, frozen=True):
    """Tell the consumer group that the entry is done with. `unreadable`: it was none of the router's."""

    work_id: str
    unreadable: bool = False


Effect = Begin | Stop | Write | Acknowledge


class WorkerCore:
    """One node's work in one life of its agent: runs, at most `slots` at a time, loads and unloads.

    `engine`: what answers on this node, for the results; whoever runs the core keeps it up to date.
    `work_read`: the last entry that was read. `broken`: models that are not in memory, whatever the backend
    lists. `restarted`: what is pending now was delivered to a former process. `leaving`: it is to end.
    """

    def __init__(self, slots: int, engine: str = "") -> None:
        self.slots, self.engine = slots, engine
        self.jobs: dict[str, Job] = {}
        self.work_read = ""
        self.broken: set[str] = set()
        self.restarted = True
        self.leaving = False
        self._seen: dict[str, bytes] = {}
        self._ends: dict[str, Result] = {}
        self._ends_bytes = 0

    @property
    def in_hand(self) -> tuple[str, ...]:
        """Return the work ids that health lists, in the order in which they were read."""
        return tuple(each.work_id for each in self.jobs.values() if each.phase is not Phase.REPORTED)

    def working(self, resident: Iterable[ResidentModel]) -> tuple[ResidentModel, ...]:
        """Leave out the models that the backend lists as resident, but that are broken."""
        return tuple(row for row in resident if row.name not in self.broken)

    # entries

    def catch_up(
        self, pending: Iterable[Entry], known: Collection[str]
    ) -> tuple[list[Entry], list[Effect]]:
        """Sort what was delivered and not acknowledged, at the start and after every cut. `known`: the jobs
        there were when it was asked for; some may have ended since. Return what is to be received together
        with the new entries: nobody saw it yet, or its end was lost. At the start there is no such entry:
        what a former process may have run is reported."""
        unknown = [entry for entry in pending if entry[0] not in known]
        if not self.restarted:
            return unknown, []
        self.restarted = False
        effects: list[Effect] = []
        for work_id, fields in unknown:
            raw = fields.get(b"head", b"")
            self._remember(work_id, raw)
            effects += self._report(work_id, raw, Input.RESTARTED)
        return [], effects

    def receive(self, entries: Collection[Entry]) -> list[Effect]:
        """Notice entries that were read together, then take them up."""
        effects = [effect for entry in entries for effect in self.notice(*entry)]
        return effects + [effect for entry in entries for effect in self.take(*entry)]

    def notice(self, work_id: str, fields: Mapping[bytes, bytes]) -> list[Effect]:
        """Note an entry the moment it is read. Work is in hand from now on; a cancel takes effect, so that
        work which was read together with its cancel does not begin."""
        raw = fields.get(b"head", b"")
        if self._seen.get(work_id) == raw:  # by its content: a server that lost its tail gives ids again
            return []
        self._remember(work_id, raw)
        head = decode(raw)
        if head is not None and head.op == "cancel":
            return self.cancel(head.work_id)
        if head is not None:
            self.jobs.setdefault(work_id, Job(work_id, head, fields))
        return []

    def take(self, work_id: str, fields: Mapping[bytes, bytes]) -> list[Effect]:
        """Take up an entry that was noticed. A copy of work in hand changes nothing: its one end
        acknowledges all copies."""
        job = self.jobs.get(work_id)
        if job is None:
            return self._report(work_id, fields.get(b"head", b""), Input.REPEATED)
        if not job.advance(Input.TAKEN):
            return []
        return self._end(job, CANCELLED) if job.phase is Phase.ENDED else self._begin()

    def cancel(self, work_id: str) -> list[Effect]:
        """End work that is in hand as cancelled, unless it has its end."""
        job = self.jobs.get(work_id)
        if job is None or not job.advance(Input.CANCELLED) or job.phase is Phase.WITHDRAWN:
            return []
        return [Stop(work_id)] if job.phase is Phase.STOPPING else self._end(job, CANCELLED)

    def drained(self, work_id: str) -> None:
        """Count everything up to this id as read: nothing waits, and what was sent before its group was
        lost and made anew never comes. The router then misses it and tries again."""
        self.work_read = work_id or self.work_read

    # the end of this life

    def drain(self) -> list[Effect]:
        """Begin nothing more, and hand back what waits, and whatever is taken up from now on."""
        self.leaving = True
        return self._begin()

    def let_go(self) -> list[Effect]:
        """Hand back what still runs, by stopping it."""
        running = [job for job in self.jobs.values() if job.phase is Phase.RUNNING]
        for job in running:
            job.advance(Input.CANCELLED)
            job.let_go = True
        return [Stop(job.work_id) for job in running]

    # what becomes of it

    def started(self, job: Job) -> Result:
        """Make the result that says that a run goes on."""
        return Result(self._head("started", job))

    def progress(self, job: Job, fields: dict[str, bytes]) -> Result:
        """Make the result that says how far a pull is: fields of PROGRESS_FIELDS."""
        return Result(self._head("progress", job), fields)

    def passed_on(self, job: Job, piece: dict[str, bytes]) -> Result:
        """Make the result with the next piece of a run's answer: fields of PIECE_FIELDS."""
        job.pieces += 1
        return Result(self._head("tokens", job, seq=job.pieces), piece)

    def ended(self, work_id: str, outcome: Done | RunFailedError) -> list[Effect]:
        """Take in how a job that had begun came out."""
        job = self.jobs[work_id]
        job.advance(Input.ENDED)
        if outcome is CANCELLED and job.let_go:
            outcome = LEAVING
        if isinstance(outcome, Done):
            self.broken.discard(job.head.model)
        elif outcome.breaks_model and job.head.op != "unload":
            self.broken.add(job.head.model)
        return self._end(job, outcome)

    def written(self, work_id: str) -> list[Effect]:
        """Let go of a job whose result is in the stream: only now may its entry be acknowledged."""
        self.jobs[work_id].advance(Input.WRITTEN)
        del self.jobs[work_id]
        return [Acknowledge(work_id)]

    # rules

    def _begin(self) -> list[Effect]:
        """Begin what waits, in the order of reading: runs as long as slots are free, and nothing that was
        read after an unload which is still in hand. An agent that leaves hands all of it back."""
        if self.leaving:
            waiting = [job for job in self.jobs.values() if job.phase is Phase.WAITING]
            for job in waiting:
                job.advance(Input.CANCELLED)
            return [effect for job in waiting for effect in self._end(job, LEAVING)]
        effects: list[Effect] = []
        free = self.slots - sum(has_slot(job) for job in self.jobs.values())
        has_room, disk_busy = True, any(is_on_disk(job) and is_begun(job) for job in self.jobs.values())
        for job in self.jobs.values():
            if job.head.op == "unload":
                may_begin, has_room = True, False
            elif is_on_disk(job):
                may_begin = not disk_busy
            else:
                may_begin = has_room and (job.head.op != "run" or free > 0)
            if may_begin and job.phase is Phase.WAITING:
                job.advance(Input.BEGUN)
                free -= has_slot(job)
                disk_busy = disk_busy or is_on_disk(job)
                effects.append(Begin(job))
        return effects

    def _end(self, job: Job, outcome: Done | RunFailedError) -> list[Effect]:
        """Give a job its end, and begin what waited for it."""
        if job.head.op == "unload":
            return [*self.written(job.work_id), *self._begin()]
        result = self._result(job, outcome)
        self._keep(job.work_id, result)
        return [Write(job, result), *self._begin()]

    def _report(self, work_id: str, raw: bytes, given: Input) -> list[Effect]:
        """Write the end of work that is over and has a result; only acknowledge anything else."""
        head = decode(raw)
        if head is None or head.op not in HAVE_RESULTS:
            return [Acknowledge(work_id, unreadable=head is None)]
        job = self.jobs[work_id] = Job(work_id, head)
        job.advance(given)
        if given is Input.RESTARTED:
            return [Write(job, self._result(job, RESTARTED))]
        return [Write(job, self._ends.get(work_id) or self._result(job, LOST))]

    def _result(self, job: Job, outcome: Done | RunFailedError) -> Result:
        """Make a job's one result."""
        if isinstance(outcome, Done):
            return Result(self._head("completed", job, **outcome.usage.fields()), outcome.body)
        head = self._head("failed", job, code=outcome.code, blame=outcome.blame)
        return Result(head, {"message": str(outcome).encode()})

    def _head(self, op: ResultOp, job: Job, **more: Any) -> ResultHead:
        """Make a result's head."""
        request, attempt = job.head.request, job.head.attempt
        return ResultHead(op, request, attempt, job.work_id, engine=self.engine, **more)

    def _remember(self, work_id: str, raw: bytes) -> None:
        """Note that an entry was read."""
        self.work_read = work_id
        self._seen[work_id] = raw
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    def _keep(self, work_id: str, result: Result) -> None:
        """Remember an end that may have to be written again."""
        if work_id in self._ends:
            self._ends_bytes -= size_of(self._ends.pop(work_id))
        self._ends[work_id] = result
        self._ends_bytes += size_of(result)
        while len(self._ends) > REMEMBERED or self._ends_bytes > REMEMBERED_BYTES:
            self._ends_bytes -= size_of(self._ends.pop(next(iter(self._ends))))


def has_slot(job: Job) -> bool:
    """Return whether a job takes one of the node's slots."""
    return job.head.op == "run" and is_begun(job)


def is_on_disk(job: Job) -> bool:
    """Return whether a job changes what is on the disk."""
    return job.head.op in ("pull", "remove")


def is_begun(job: Job) -> bool:
    """Return whether the backend carries a job out."""
    return job.phase in (Phase.RUNNING, Phase.STOPPING)


def size_of(result: Result) -> int:
    """Return about how many bytes of memory an end takes."""
    return sum(len(value) for value in result.body.values())


def decode(raw: bytes) -> WorkHead | None:
    """Read the head of a work entry; None when it is none."""
    try:
        return decode_work(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
