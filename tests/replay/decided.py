"""Logs for the tests of what is made of logs: of the real decider, without a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import structs

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import GENESIS, LoggedGrid, chain
from orion_streams.simulation.baseline_policies import OURS, questions_of
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.virtual_house import usual_house
from orion_streams.simulation.workloads import Arrival, arrivals, scenario

EPOCH_MS = 1_800_000_000_000
Row = tuple[int, bytes]


def chained(events: Iterable[ev.AnyEvent], decider: int = DECIDER) -> list[Row]:
    """The events as the rows of a log, its running hash in the heads, decided by this version."""
    rows: list[Row] = []
    digest = GENESIS
    for position, event in enumerate(events, 1):
        mended: ev.AnyEvent = event
        if isinstance(event, ev.Committed):
            mended = structs.replace(event, hash=digest.hex())
        elif isinstance(event, ev.PolicyChanged):
            mended = structs.replace(event, decider=decider)
        raw = event_codec.encode(mended)
        digest = chain(digest, raw)
        rows.append((position, raw))
    return rows


def chunks(rows: Sequence[Row], size: int = 7) -> Iterator[Sequence[Row]]:
    """The rows as a reader hands them out, commits cut anywhere."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def nothing() -> LoggedGrid:
    """The base of a log that begins at its first entry."""
    return LoggedGrid(Grid())


class Recorded(Engine):
    """A simulated run that keeps its log."""

    traced: list[Arrival]

    def __init__(self, *args: Any, **options: Any) -> None:
        self.events: list[ev.AnyEvent] = []
        self._answers: list[ev.AnyEvent] = []
        super().__init__(*args, **options)

    def act(self, now: int, answer: ev.AnyEvent) -> None:
        before = self.work_number
        super().act(now, answer)
        if self.work_number > before and isinstance(answer, ev.RequestRouted | ev.LoadOrdered):
            answer = structs.replace(answer, work_id=f"{self.work_number}-0")
        self._answers.append(answer)

    def commit(self, now: int) -> None:
        inputs, self._answers = tuple(self.inputs), []
        decided = any(not isinstance(each, ev.RequestStarted) for each in inputs)
        super().commit(now)
        head = ev.Committed(self.commits, EPOCH_MS + now, len(inputs), decided, "")
        self.events += (head, *inputs, *self._answers)

    @property
    def rows(self) -> list[Row]:
        """The log."""
        return chained(self.events)


def simulated(regime: str, workload: str, requests: int, health_ms: int = 2_000, **policy: int) -> Recorded:
    """A run of ours that has ended; `policy` replaces some of its rules."""
    scene = scenario(regime, workload, requests, 3)
    house = usual_house(scene, health_ms)
    [(at_ms, rules)] = house.rules
    changed = structs.replace(rules, policy=structs.replace(rules.policy, **policy))
    trace = list(arrivals(scene, 3))
    engine = Recorded(
        scene,
        iter(trace),
        questions_of(OURS, 3),
        structs.replace(house, rules=((at_ms, changed),)),
    )
    engine.traced = trace
    engine.run()
    return engine
