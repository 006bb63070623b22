"""The breaker's row after one event."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Failure, Grid, Node
from orion_streams.model.vocabulary import AbandonReason, Blame, BreakerState
from orion_streams.projections import evolve
from orion_streams.projections.breaker import failed, ramp_after, state_of
from tests.grids import AT_MS, grid, node, request

FAILED = ev.AttemptFailed("brain/a", 1, "n", "5-1", "stream_cut", Blame.NODE)
ANSWER = ev.RequestCompleted("brain/a", 1, "n", "5-1", 9, 9, 0, 9, 9, 9)


def house(*rows: Node, failures: tuple[Failure, ...] = ()) -> Grid:
    """A grid in which a request runs on `n`."""
    asked = request(node="n", work_id="5-1", started=True, failures=failures)
    return grid(*rows, open_requests={"brain/a": asked})


def suspects(some: Grid, event: ev.AnyEvent = FAILED, name: str = "n") -> tuple[str, ...]:
    """Which requests are held against a node after one event."""
    return evolve(some, event).nodes[name].suspects


def test_an_abandoned_attempt_is_the_nodes_fault() -> None:
    """A run that is gone counts as one that failed; one that was cut off by silence does not."""
    event = ev.AttemptAbandoned("brain/a", 1, "n", "5-1", AbandonReason.GONE)
    assert suspects(house(node("n")), event) == ("brain/a",)
    assert suspects(house(node("n")), replace(event, reason="silent")) == ()


def test_an_old_attempt_is_held_against_nobody() -> None:
    """Nor one of a request that is closed, or of a node that is not there."""
    some = house(node("n"))
    assert suspects(some, replace(FAILED, work_id="4-0")) == ()
    assert suspects(some, replace(FAILED, request="brain/b")) == ()
    elsewhere = replace(FAILED, node="gone")
    failed(some, elsewhere)
    assert some == house(node("n"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("brain/a",)),
        ({"suspects": ("brain/a",)}, ("brain/a",)),
        ({"suspects": ("brain/x", "brain/y")}, ("brain/x", "brain/y", "brain/a")),
        ({"suspects": ("brain/x", "brain/y", "brain/z")}, ("brain/x", "brain/y", "brain/z")),
        ({"opened_ms": AT_MS - 14_999, "open_ms": 15_000}, ()),
        ({"opened_ms": AT_MS - 15_000, "open_ms": 15_000}, ("brain/a",)),
    ],
)
def test_suspects_are_different_and_bounded(values: dict[str, Any], expected: tuple[str, ...]) -> None:
    """Each request once, no more than open the breaker, and none while it rests."""
    assert suspects(house(node("n", **values))) == expected


@pytest.mark.parametrize(
    ("code", "blame", "expected"),
    [
        ("stream_cut", "node", ("brain/y", "brain/a")),
        ("stream_cut", "request", ("brain/y",)),
        ("stream_cut", "ours", ("brain/y",)),
        ("ollama_error", "node", ("brain/y",)),
        ("ollama_unreachable", "node", ("brain/y",)),
        ("cancelled", "node", ("brain/y",)),
    ],
)
def test_only_what_is_surely_the_nodes_fault_counts(
    code: str, blame: str, expected: tuple[str, ...]
) -> None:
    """Neither a refusal nor what others look after, nor what somebody else is to blame for."""
    some = house(node("m"), node("n", suspects=("brain/y",)))
    assert suspects(some, replace(FAILED, code=code, blame=blame)) == expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("m", "ollama_error", Blame.NODE), ("brain/a",)),
        (Failure("m", "stream_cut", Blame.NODE), ()),
        (Failure("n", "ollama_error", Blame.NODE), ()),
        (Failure("gone", "ollama_error", Blame.NODE), ()),
    ],
)
def test_an_answer_elsewhere_turns_a_refusal_into_suspicion(
    failure: Failure, expected: tuple[str, ...]
) -> None:
    """Only a doubtful one, of another node, that is still there; the node that answered is free of it."""
    some = house(node("m"), node("n", suspects=("brain/x",)), failures=(failure,))
    assert suspects(some, ANSWER, "m") == expected
    assert suspects(some, ANSWER) == ()


def test_an_answer_to_a_closed_request_says_nothing() -> None:
    """The suspicion stays."""
    some = house(node("n", suspects=("brain/x",)))
    assert suspects(some, replace(ANSWER, request="brain/b")) == ("brain/x",)
    assert evolve(some, replace(ANSWER, node="gone")).nodes == some.nodes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, BreakerState.CLOSED),
        ({"ramp": 0}, BreakerState.RAMP),
        ({"opened_ms": AT_MS - 4, "open_ms": 5}, BreakerState.OPEN),
        ({"opened_ms": AT_MS - 5, "open_ms": 5, "ramp": 0}, BreakerState.PROBING),
    ],
)
def test_a_breaker_has_one_of_four_states(values: dict[str, Any], expected: BreakerState) -> None:
    """An open one probes as soon as its time is over."""
    row = node("n", **values)
    assert state_of(grid(row), row) == expected


@pytest.mark.parametrize(
    ("slots", "opened_ms", "ramp", "expected"),
    [
        (1, 5, None, 0),
        (3, 5, 1, 0),
        (3, None, None, None),
        (3, None, 0, 1),
        (3, None, 1, None),
        (4, None, 1, 2),
        (4, None, 2, None),
        (2, None, 0, None),
    ],
)
def test_the_ramp_ends_when_all_slots_are_open(
    slots: int, opened_ms: int | None, ramp: int | None, expected: int
) -> None:
    """One more with each answer; an open breaker notes that its probe was answered."""
    assert ramp_after(node("n", slots=slots, opened_ms=opened_ms, ramp=ramp)) == expected


@pytest.mark.parametrize(
    "values", [{"suspects": ("brain/x",)}, {"ramp": 0}, {"opened_ms": AT_MS - 20_000, "open_ms": 15_000}]
)
def test_an_answer_is_folded_into_the_row(values: dict[str, Any]) -> None:
    """No suspects are left, and the ramp moves."""
    row = node("n", slots=4, **values)
    expected = {"suspects": (None), "ramp": 1, "opened_ms": 0}
    [kind] = [key for key in values if key in expected]
    after = evolve(house(row), ANSWER).nodes["n"]
    assert after == replace(row, suspects=(), ramp=expected[kind])


def test_an_opened_breaker_rests_from_now() -> None:
    """One trip more; suspects and ramp begin anew."""
    row = node("n", trips=2, suspects=("brain/x",), ramp=1, opened_ms=5, open_ms=15_000)
    after = evolve(grid(row), ev.BreakerOpened("n", 1, 60_000)).nodes["n"]
    assert after == replace(row, opened_ms=AT_MS, open_ms=60_000, trips=3, suspects=(), ramp=None)


@pytest.mark.parametrize(("slots", "ramp"), [(1, None), (2, 0), (3, 0)])
def test_a_closed_breaker_forgets_its_trips(slots: int, ramp: int | None) -> None:
    """Only a node of several slots has a ramp."""
    row = node("n", slots=slots, trips=2, suspects=("brain/x",), ramp=1, opened_ms=5, open_ms=15_000)
    after = evolve(grid(row), ev.BreakerClosed("n")).nodes["n"]
    assert after == replace(row, opened_ms=None, open_ms=0, trips=0, suspects=(), ramp=ramp)
