"""The worker's promises over any history of entries, cancels, ends, cuts, drains, restarts, lost tails."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection
from itertools import islice
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Struct, field

from orion_streams.agents.backend import RunFailedError
from orion_streams.agents.job import Job, Phase
from orion_streams.agents.worker_core import (
    CANCELLED,
    LEAVING,
    Acknowledge,
    Begin,
    Done,
    Effect,
    Entry,
    Stop,
    WorkerCore,
    Write,
)
from orion_streams.protocol.agent_entries import WorkHead, decode_work, encode_head
from tests.cluster.removing import without

SLOTS = 1
PLACES = st.integers(0, 99)
OUTCOMES = (Done(), RunFailedError("ollama_error", "node", "it failed", breaks_model=True))


def one_of(choices: Collection[str], place: int) -> str:
    """The choice at that place, counted in a circle."""
    return list(choices)[place % len(choices)]


class Server(Struct):
    """A node's work, how much of it was delivered and what of that is pending, and the ends that it has."""

    entries: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    delivered: int = 0
    pending: list[str] = []
    results: list[str] = []


class Histories(RuleBasedStateMachine):
    """A server that may lose its tail, and one process of the agent after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.server, self.saved = Server(), Server()
        self.requests = 0
        self.start()

    def start(self) -> None:
        """A new process: nothing is remembered, runs or is on its way. Counts go by work id."""
        self.core, self.is_behind = WorkerCore(SLOTS), True
        self.running: dict[str, Job] = {}
        self.stopping: list[str] = []
        self.writing: list[Write] = []
        self.settled: list[str] = []
        self.asked: tuple[set[str], list[Entry] | None, list[Entry]] | None = None
        self.over: set[str] = set()
        self.let_go_of: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.deliveries: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def add(self, op: Any, target: str = "") -> None:
        """The router sends an entry; no two have the same content."""
        self.requests += 1
        head = WorkHead(op, f"brain/{self.requests}", 1, "m", target)
        self.server.entries[f"{self.requests}-0"] = {b"head": encode_head(head)}

    # what happens

    @rule(op=st.sampled_from(("run", "run", "load", "unload")))
    def order(self, op: str) -> None:
        """The router sends work."""
        self.add(op)

    @precondition(lambda self: self.server.entries)
    @rule(place=PLACES)
    def withdraw(self, place: int) -> None:
        """The router sends a cancel, maybe of what is over or of a cancel."""
        self.add("cancel", one_of(self.server.entries, place))

    @precondition(lambda self: self.asked is None)
    @rule(count=st.integers(1, 4))
    def ask(self, count: int) -> None:
        """The agent reads, and acknowledges along with it what is settled."""
        self.read(count)

    @precondition(lambda self: self.asked is not None)
    @rule()
    def hear(self) -> None:
        """The answer to the read comes, maybe after some work has ended."""
        self.receive()

    @precondition(lambda self: self.running)
    @rule(place=PLACES, outcome=st.sampled_from(OUTCOMES))
    def end(self, place: int, outcome: Any) -> None:
        """The backend is done with something, maybe just before it was to stop."""
        self.finish(one_of(self.running, place), outcome)

    @precondition(lambda self: self.stopping)
    @rule()
    def stop(self) -> None:
        """What was to stop has stopped."""
        self.finish(self.stopping[0], CANCELLED)

    @precondition(lambda self: self.writing)
    @rule()
    def write(self) -> None:
        """The oldest result that waits is in the stream."""
        self.write_next()

    @rule()
    def cut(self) -> None:
        """The connection breaks; an answer that was on its way is lost."""
        self.asked, self.is_behind = None, True

    @rule()
    def restart(self) -> None:
        """The process ends, and another begins."""
        self.start()

    @rule()
    def drain(self) -> None:
        """The process is told to leave, maybe once more."""
        self.perform(self.core.drain())
        assert Phase.WAITING not in [job.phase for job in self.core.jobs.values()], "waits on"

    @precondition(lambda self: self.core.leaving)
    @rule()
    def let_go(self) -> None:
        """It has waited for long enough."""
        self.let_go_of |= set(self.running) - set(self.stopping)
        self.perform(self.core.let_go())
        assert set(self.stopping) == set(self.running), "goes on"

    @rule()
    def save(self) -> None:
        """All that there is reaches the server's disk."""
        self.saved = copy.deepcopy(self.server)

    @rule()
    def lose_tail(self) -> None:
        """The server dies and comes back as it was on its disk; all connections break."""
        self.server = copy.deepcopy(self.saved)
        self.cut()

    # how the agent and the server go about it

    def read(self, count: int) -> None:
        """XACK and XREADGROUP, as the server carries them out: what is pending, if the agent is behind, and
        what is new."""
        if self.is_behind:
            self.settled.clear()
        server = self.server
        server.pending = [each for each in server.pending if each not in self.settled]
        pending: list[Entry] = [(each, server.entries[each]) for each in server.pending]
        new: list[Entry] = list(islice(server.entries.items(), server.delivered, server.delivered + count))
        server.delivered += len(new)
        server.pending += [work_id for work_id, _ in new]
        self.asked = set(self.core.jobs), pending if self.is_behind else None, new

    def receive(self) -> None:
        """The core hears what was read."""
        assert self.asked is not None
        known, pending, new = self.asked
        self.asked, unseen = None, list[Entry]()
        if pending is not None:
            self.is_behind = False
            self.deliveries.update(work_id for work_id, _ in pending if work_id not in known)
            unseen, effects = self.core.catch_up(pending, known)
            self.perform(effects)
        self.deliveries.update(work_id for work_id, _ in new)
        self.perform(self.core.receive([*unseen, *new]))

    def finish(self, work_id: str, outcome: Any) -> None:
        """The backend tells how something came out."""
        del self.running[work_id]
        self.stopping = [each for each in self.stopping if each != work_id]
        self.perform(self.core.ended(work_id, outcome))

    def write_next(self) -> None:
        """XADD, and its answer."""
        write = self.writing.pop(0)
        self.server.results.append(write.job.work_id)
        self.perform(self.core.written(write.job.work_id))

    def perform(self, effects: list[Effect]) -> None:
        """Do what the core asks for."""
        for effect in effects:
            match effect:
                case Begin(job):
                    self.begin(job)
                case Stop(work_id):
                    assert work_id in self.running
                    self.stopping.append(work_id)
                case Write(job, result):
                    assert result.head.work_id == job.work_id
                    assert job.work_id not in self.running
                    if job.work_id in self.let_go_of:
                        assert result.head.code != CANCELLED.code, "nobody cancelled it"
                    if result.head.code == LEAVING.code:
                        assert result.head.blame == "ours"
                        assert self.core.leaving, "it does not leave"
                    self.ends[job.work_id] += 1
                    self.over.add(job.work_id)
                    self.writing.append(effect)
                case Acknowledge(work_id):
                    if self.op_of(work_id) in ("run", "load"):
                        assert work_id in self.server.results, "acknowledged before it is written"
                    self.settled.append(work_id)

    def op_of(self, work_id: str) -> str:
        """What an entry asks for; nothing if the server lost it."""
        fields = self.server.entries.get(work_id)
        return decode_work(fields[b"head"]).op if fields else ""

    # what has to hold

    def begin(self, job: Job) -> None:
        """Nothing begins twice in a process, or after its end, or while an unload that was read before it
        goes on."""
        self.begun[job.work_id] += 1
        assert self.begun[job.work_id] == 1, "begun twice"
        assert job.work_id not in self.over, "begun after its end"
        assert not self.core.leaving, "begun by one that leaves"
        if job.head.op != "unload":
            before = self.core.in_hand[: self.core.in_hand.index(job.work_id)]
            assert "unload" not in [self.core.jobs[each].head.op for each in before], "there is no room yet"
        self.running[job.work_id] = job

    @invariant()
    def runs_have_slots(self) -> None:
        """Never more runs than slots."""
        assert sum(job.head.op == "run" for job in self.running.values()) <= SLOTS, "too many at once"

    @invariant()
    def ends_are_not_repeated(self) -> None:
        """What was delivered once to a process has at most one end; each further delivery may repeat it."""
        assert not self.ends - self.deliveries, "an end too many"

    def read_all(self) -> None:
        """Hear of everything, and acknowledge what is settled."""
        if self.asked is not None:
            self.receive()
        self.read(1_000)
        self.receive()

    def teardown(self) -> None:
        """When all that may happen has happened, each run and load on the server has its end there, nothing
        is pending, and nothing is in hand."""
        self.read_all()
        while self.running or self.writing:
            if self.running:
                work_id = next(iter(self.running))
                self.finish(work_id, CANCELLED if work_id in self.stopping else Done())
            else:
                self.write_next()
        self.read_all()
        work = {each for each in self.server.entries if self.op_of(each) in ("run", "load")}
        assert not work - set(self.server.results), "no end"
        assert (self.server.pending, self.core.in_hand) == ([], ()), "not at rest"


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=40)


def replay(history: str) -> None:
    """Let just this happen, and then all that may still happen. Raises AssertionError."""
    machine = Histories()
    for step in history.split():
        match step:
            case "run" | "load" | "unload":
                machine.order(op=step)
            case "read":
                machine.ask(count=9)
                machine.hear()
            case "ask":
                machine.ask(count=9)
            case "end":
                machine.finish(next(iter(machine.running)), Done())
            case _:
                getattr(machine, step)()
        machine.runs_have_slots()
        machine.ends_are_not_repeated()
    machine.teardown()


@pytest.mark.parametrize(
    ("name", "part", "instead", "history", "broken"),
    [
        ("_begin", "if self.leaving", "if False", "drain run read", "begun by one that leaves"),
        ("drain", "return self._begin()", "return []", "run run read drain end", "waits on"),
        ("let_go", "Stop(job.work_id) for", "job for", "run read drain let_go", "goes on"),
        ("ended", "and job.let_go", "and False", "run read drain let_go stop", "nobody cancelled it"),
        (
            "notice", "self._seen.get(work_id) == raw", "False",
            "run save read end write lose_tail read", "begun twice",
        ),
        (
            "catch_up", "if entry[0] not in known", "",
            "run read cut ask end write hear", "an end too many",
        ),
        (
            "catch_up", "self._remember(work_id, raw)", "pass",
            "run read restart read write cut read", "begun after its end",
        ),
        ("_begin", "has_room and", "True and", "unload run read", "there is no room yet"),
        ("_begin", "free -= has_slot(job)", "pass", "run run run read end", "too many at once"),
        ("_end", "*self._begin()", "", "run run read end", "no end"),
        ("_report", "not in HAVE_RESULTS", '!= "run"', "load read restart read", "before it is written"),
        (
            "ended", "return self._end(job, outcome)", "return [Acknowledge(work_id)]",
            "run read end", "before it is written",
        ),
    ],
)  # fmt: skip
def test_a_rule_that_is_missing_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, part: str, instead: str, history: str, broken: str
) -> None:
    """Negative controls: a history that holds breaks a promise once the rule that keeps it is taken out."""
    replay(history)
    without(monkeypatch, WorkerCore, name, part, instead)
    with pytest.raises(AssertionError, match=broken):
        replay(history)
