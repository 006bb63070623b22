"""One row for each request that ends, whatever the history."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from msgspec.structs import asdict

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Blame, RequestKind, RequestState
from orion_streams.projections import apply
from orion_streams.projections.ended_requests import Ended as End
from orion_streams.projections.ended_requests import EndedRequest, EndedRequests
from tests.grids import MODEL, grid, node
from tests.properties import histories
from tests.properties import strategies as make

CHOSEN = Verdict(node="n", cost_ms=9_000, drain_ms=1_000, load_ms=2_000, prefill_ms=500, decode_ms=2_500)
ACCEPTED = ev.RequestAccepted("brain/q", "1-0", RequestKind.CHAT, MODEL, 60_000, 10, 4)
ROUTED = ev.RequestRouted("brain/q", 1, "n", "p", 1, (CHOSEN,), work_id="9-0")
STARTED = ev.RequestStarted("brain/q", 1, "9-0")
ANSWERED = ev.RequestCompleted(
    "brain/q", 1, "n", "9-0", tokens=40, prompt_tokens=4, load_ms=1_900, prefill_ms=400, decode_ms=2_700,
    total_ms=5_000, cold=True, first_token_ms=2_300,
)  # fmt: skip


def ends(some: Grid, events: Iterable[ev.AnyEvent | int]) -> list[EndedRequest]:
    """Return the rows of what ends in a grid, into which the events are folded; a number lets so many ms
    pass."""
    follower, rows = EndedRequests(some), list[EndedRequest]()
    for event in events:
        if isinstance(event, int):
            some.at_ms, some.server_ms = some.at_ms + event, some.server_ms + event
            continue
        apply(some, event)
        row = follower.take(some, event)
        rows += [row] if row is not None else []
    return rows


def test_an_answer_has_its_times() -> None:
    """Waits, runs and promises are told apart."""
    some = grid(node("n"))
    [row] = ends(some, [ACCEPTED, 300, ROUTED, 1_200, STARTED, 5_000, ANSWERED])
    assert asdict(row) == {
        "request": "brain/q", "kind": "chat", "model": MODEL, "outcome": "done",
        "position": some.position, "ended_ms": some.server_ms, "age_ms": 6_500, "waited_ms": 1_500,
        "node": "n", "attempts": 1, "code": "", "cold": True, "promised_ms": 6_000, "took_ms": 6_200,
        "load_ms": 1_900, "first_token_ms": 2_300, "run_ms": 5_000, "decode_ms": 2_700, "tokens": 40,
        "prompt_tokens": 4,
    }  # fmt: skip
    assert row.kept_promise is True


@pytest.mark.parametrize(("later_ms", "kept"), [(0, True), (1_300, True), (1_301, False)])
def test_a_promise_is_kept_up_to_a_quarter(later_ms: int, kept: bool) -> None:
    """6 s were promised: up to 7.5 s is in time."""
    [row] = ends(grid(node("n")), [ACCEPTED, ROUTED, 1_200, STARTED, 5_000 + later_ms, ANSWERED])
    assert (row.took_ms, row.kept_promise) == (6_200 + later_ms, kept)


def test_what_was_never_sent_has_waited_all_its_time() -> None:
    """It has no node, and nothing was promised."""
    [row] = ends(grid(node("n")), [ACCEPTED, 60_001, ev.RequestExpired("brain/q")])
    assert (row.outcome, row.node, row.waited_ms, row.age_ms) == (RequestState.EXPIRED, "", 60_001, 60_001)
    assert (row.took_ms, row.promised_ms, row.run_ms, row.kept_promise) == (0, 0, 0, None)


def test_a_failed_attempt_is_waiting_again() -> None:
    """The last node that had it is named; what waited after its failure waited."""
    failed = ev.AttemptFailed("brain/q", 1, "n", "9-0", "stream_cut", Blame.NODE)
    end = ev.RequestFailed("brain/q", "attempts_exhausted")
    [row] = ends(grid(node("n")), [ACCEPTED, ROUTED, 100, STARTED, 700, failed, 50, end])
    assert (row.outcome, row.code, row.node, row.attempts) == ("error", "attempts_exhausted", "n", 1)
    assert (row.waited_ms, row.run_ms, row.took_ms) == (850, 0, 850)


def test_a_late_start_of_an_earlier_attempt_counts_for_nothing() -> None:
    """The run that answers is the one that is measured."""
    gone = ev.AttemptAbandoned("brain/q", 1, "n", "9-0", AbandonReason.OVERDUE)
    again = ev.RequestRouted("brain/q", 2, "n", "p", 1, (CHOSEN,), work_id="9-1")
    late = ev.RequestStarted("brain/q", 1, "9-0")
    answered = ev.RequestCompleted("brain/q", 2, "n", "9-1", 1, 1, 0, 1, 1, 100)
    [row] = ends(grid(node("n")), [ACCEPTED, ROUTED, 10, gone, again, 400, late, 600, answered])
    assert (row.waited_ms, row.run_ms, row.attempts, row.took_ms) == (910, 100, 2, 1_000)


def test_who_begins_in_the_middle_knows_what_is_open() -> None:
    """Followed from a grid in which it runs already, an end has its row all the same."""
    some = grid(node("n"))
    assert ends(some, [ACCEPTED, 300, ROUTED, 1_200, STARTED]) == []
    [row] = ends(some, [5_000, ANSWERED])
    assert (row.waited_ms, row.age_ms, row.took_ms, row.node) == (1_500, 6_500, 5_000, "n")


@make.MANY
@given(histories.HISTORIES, histories.TAILS)
def test_each_end_has_one_row(before: list[ev.AnyEvent], after: list[ev.AnyEvent]) -> None:
    """In any history what was open and ends has one row, also for who begins in its middle; no time is
    below zero."""
    whole, wanted = Grid(), list[tuple[str, int]]()
    for event in [*before, *after]:
        was_open = isinstance(event, End) and event.request in whole.open
        apply(whole, event)
        if was_open:
            assert isinstance(event, End)
            wanted.append((event.request, whole.position))
    rows = ends(Grid(), [*before, *after])
    assert [(row.request, row.position) for row in rows] == wanted
    half = Grid()
    first = ends(half, before)
    assert [(row.request, row.position) for row in [*first, *ends(half, after)]] == wanted
    for row in rows:
        assert min(value for value in asdict(row).values() if isinstance(value, int)) >= 0
