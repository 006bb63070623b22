"""A recorded workload run again: nodes rest when they did, by the clock and by whom they did."""

from __future__ import annotations

import pytest

from orion_streams.decider.decide import QUESTIONS
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules
from orion_streams.replay.rule_changes import Change
from orion_streams.simulation.rerun.collect_workload import RecordedWorkload
from orion_streams.simulation.rerun.recorded_scene import scene_of
from orion_streams.simulation.virtual_grid import Engine
from tests.grids import MODEL
from tests.replay.books import QUIET, A, B, Book, accepted, beat, house
from tests.replay.decided import Row, nothing

MORNING = "07:30-08:30"
"""Around 08:00 UTC, when the books begin."""


def who_answers(rows: list[Row], known: int = 0) -> dict[str, int]:
    """Who answers in the simulator; so many rows are before the log's beginning."""
    base = nothing()
    fold_raw(base, rows[:known])
    found = RecordedWorkload(base)
    found.take(rows[known:])
    scene = scene_of(found, Change(), {})
    engine = Engine(scene.scenario, iter(scene.trace), QUESTIONS, scene.house)
    engine.run()
    return dict(engine.answered)


def asked(book: Book) -> Book:
    """The book with one more request, some seconds later."""
    for _ in range(3):
        beat(book, {A: 50_000, B: 50_000})
    book.commit(accepted("q1"))
    return book


@pytest.mark.parametrize(
    ("quiet", "zone_s", "node"),
    [("", 0, A), (MORNING, 0, B), ("00:00-01:00", 0, A), (MORNING, 3_600, A), ("08:30-09:30", 3_600, B)],
)
def test_quiet_hours_go_by_the_clock_of_the_log(quiet: str, zone_s: int, node: str) -> None:
    """Where it is eight in the morning it is not midnight; and by its zone. A has the model in memory, so
    it answers unless it is quiet."""
    book = house(QUIET, (NodeRules(A, quiet=quiet), NodeRules(B)), a=(MODEL,))
    book.commit(ev.ZoneChanged(zone_s))
    assert who_answers(asked(book).rows) == {node: 1}


def test_a_clock_that_jumped_jumps_again() -> None:
    """By an hour, into quiet hours: what came after it goes elsewhere."""
    book = house(QUIET, (NodeRules(A, quiet="09:00-10:00"), NodeRules(B)), a=(MODEL,))
    beat(book, {A: 50_000, B: 50_000}, 3_600_000)
    assert who_answers(asked(book).rows) == {B: 1}


@pytest.mark.parametrize("known", [False, True])
def test_drains_are_as_they_were(known: bool) -> None:
    """With the operator's resume, and also where the log begins after the drain; its end by time is decided
    anew."""
    for more, node in (
        ([], B),
        ([ev.NodeResumed(A, by="cli")], A),
        ([ev.NodeDrained(A, "cli", 2_000)], A),
    ):
        book = house(a=(MODEL,))
        book.commit(ev.NodeDrained(A, "cli"))
        count = len(book.events) if known else 0
        for each in more:
            book.commit(each)
        assert who_answers(asked(book).rows, count) == {node: 1}
