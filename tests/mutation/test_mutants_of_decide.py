"""What decide() answers, event by event, each condition at its mark."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.decide import (
    breakers,
    decide,
    ends,
    housekeeping,
    is_refused,
    is_timed,
    lost_attempts,
    relief,
    safety,
    why_hopeless,
    why_lost,
)
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.state import Demand, Failure, Node, Request
from orion_streams.model.vocabulary import AbandonReason, Blame, Mark, UnloadReason
from tests.grids import AT_MS, HEAVY, MEMORY, MODEL, POLICY, grid, holding, loading, node, request, under


def answers(question: Any, *rows: Node, policy: Policy = POLICY, **values: Any) -> list[ev.AnyEvent]:
    """What one question is answered."""
    return list(question(grid(*rows, policy=policy, **values)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"temp_mc": 75_000, "ram_used_mb": 7_200}, []),
        ({"temp_mc": 75_001}, [ev.NodeBackedOff("n", Mark.HOT, 75_001, 75_000)]),
        ({"ram_used_mb": 7_201}, [ev.NodeBackedOff("n", Mark.RAM, 901, 900)]),
        (
            {"temp_mc": 75_001, "ram_used_mb": 7_201},
            [ev.NodeBackedOff("n", Mark.HOT, 75_001, 75_000), ev.NodeBackedOff("n", Mark.RAM, 901, 900)],
        ),
        ({"temp_mc": 80_000, "backed_off": (Mark.HOT,)}, []),
        ({"ram_used_mb": 7_900, "backed_off": (Mark.RAM,)}, []),
        ({"temp_mc": 80_000, "backed_off": (Mark.RAM,)}, [ev.NodeBackedOff("n", Mark.HOT, 80_000, 75_000)]),
        ({"ram_used_mb": 7_900, "backed_off": (Mark.HOT,)}, [ev.NodeBackedOff("n", Mark.RAM, 988, 900)]),
        ({"temp_mc": None}, []),
        ({"heard_ms": None, "temp_mc": 80_000}, []),
        ({"backed_off": (Mark.HOT,), "calm_samples": 2}, []),
        ({"backed_off": (Mark.HOT,), "calm_samples": 3}, [ev.NodeReturned("n")]),
        ({"backed_off": (Mark.HOT,), "calm_samples": 4, "ram_used_mb": 7_900}, [ev.NodeReturned("n")]),
        ({"calm_samples": 9}, []),
    ],
)
def test_marks_are_answered(values: dict[str, Any], expected: list[ev.AnyEvent]) -> None:
    """Strictly above is off, once for each mark; calm for long enough is back, and nothing else is said."""
    assert answers(safety, node("n", **values)) == expected


def test_every_node_is_looked_at_in_the_order_of_names() -> None:
    """One that is silent or returns keeps no other from being seen."""
    rows = (
        node("d", temp_mc=76_000),
        node("c", backed_off=(Mark.HOT,), calm_samples=3),
        node("b", heard_ms=None),
        node("a", temp_mc=77_000),
    )
    assert answers(safety, *rows) == [
        ev.NodeBackedOff("a", Mark.HOT, 77_000, 75_000),
        ev.NodeReturned("c"),
        ev.NodeBackedOff("d", Mark.HOT, 76_000, 75_000),
    ]


def full(name: str = "n", **values: Any) -> Node:
    """A node that backed off for its memory, with two idle models, the heavy one used last."""
    usual: dict[str, Any] = {
        "backed_off": (Mark.RAM,), "ram_used_mb": 6_801, "resident": MEMORY,
        "used_ms": {HEAVY: 20, MODEL: 10},
    }  # fmt: skip
    return node(name, **{**usual, **values})


SMALL, LARGE = (
    ev.UnloadOrdered("n", MODEL, UnloadReason.RELIEF),
    ev.UnloadOrdered("n", HEAVY, UnloadReason.RELIEF),
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [SMALL]),
        ({"used_ms": {MODEL: 1}}, [LARGE]),
        ({"used_ms": {}}, [SMALL]),
        ({"assignments": {"1-0": holding()}}, [LARGE]),
        ({"assignments": {"1-0": holding(), "2-0": loading(HEAVY)}}, []),
        ({"ram_used_mb": 6_800}, []),
        ({"backed_off": (Mark.HOT,)}, []),
        ({"backed_off": (Mark.HOT, Mark.RAM)}, [SMALL]),
        ({"resident": {}}, []),
        ({"unload_ordered_ms": {HEAVY: AT_MS - 30_000}}, []),
        ({"unload_ordered_ms": {HEAVY: AT_MS - 30_001}}, [SMALL]),
        ({"heard_ms": AT_MS - 5_000}, [SMALL]),
        ({"heard_ms": AT_MS - 5_001}, []),
        ({"heard_ms": None}, []),
    ],
)
def test_a_full_node_lets_go_of_one_idle_model(values: dict[str, Any], expected: list[ev.AnyEvent]) -> None:
    """The one used least recently, then by name; while it is above its lower mark, heard, told nothing."""
    assert answers(relief, full(**values)) == expected


def test_each_full_node_is_relieved() -> None:
    """One that needs nothing keeps no other waiting."""
    found = answers(relief, full("c"), full("b", backed_off=()), full("a"))
    assert found == [ev.UnloadOrdered("a", MODEL), ev.UnloadOrdered("c", MODEL)]


OPEN = {"opened_ms": AT_MS - 20_000, "open_ms": 15_000, "trips": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"suspects": ("a", "b")}, []),
        ({"suspects": ("a", "b", "c")}, [ev.BreakerOpened("n", 3, 15_000)]),
        ({"suspects": ("a", "b", "c"), "trips": 2}, [ev.BreakerOpened("n", 3, 60_000)]),
        ({"suspects": ("a", "b", "c"), "trips": 99}, [ev.BreakerOpened("n", 3, 240_000)]),
        (OPEN, []),
        ({**OPEN, "suspects": ("a",)}, [ev.BreakerOpened("n", 1, 30_000)]),
        ({**OPEN, "ramp": 0}, [ev.BreakerClosed("n")]),
        ({"ramp": 0}, []),
        ({"ramp": 0, "suspects": ("a", "b", "c")}, [ev.BreakerOpened("n", 3, 15_000)]),
    ],
)
def test_breakers_are_answered(values: dict[str, Any], expected: list[ev.AnyEvent]) -> None:
    """Three suspects open one, one suspect opens it again for twice as long, an answer closes it."""
    assert answers(breakers, node("n", **values)) == expected


def test_a_rest_never_overflows() -> None:
    """However often it tripped, at most 2 to the 16th as long."""
    policy = Policy(breaker_open_ms=1, breaker_open_max_ms=1_000_000_000)
    for trips, open_ms in ((15, 32_768), (16, 65_536), (17, 65_536), (500, 65_536)):
        row = node("n", suspects=("a", "b", "c"), trips=trips)
        assert answers(breakers, row, policy=policy) == [ev.BreakerOpened("n", 3, open_ms)]


ASSIGNED = request(node="n", work_id="5-1", attempt=2)


@pytest.mark.parametrize(
    ("values", "held", "reason"),
    [
        ({}, {}, ""),
        ({}, {"missing": 2}, ""),
        ({}, {"missing": 3}, "gone"),
        ({"heard_ms": AT_MS - 5_000}, {}, ""),
        ({"heard_ms": AT_MS - 5_001}, {}, "silent"),
        ({"heard_ms": None}, {}, "silent"),
        ({"leaving": True}, {}, ""),
        ({"leaving": True, "left": True}, {}, "left"),
        ({"leaving": True, "left": True, "work_read": "5-0"}, {}, "left"),
        ({"leaving": True, "left": True, "work_read": "5-1"}, {}, ""),
        ({"leaving": True, "left": True, "work_read": "5-1"}, {"missing": 3}, "gone"),
        ({"leaving": True, "left": True, "work_read": "5-1", "heard_ms": AT_MS - 5_001}, {}, "silent"),
        ({"leaving": True, "work_read": "5-0", "heard_ms": AT_MS - 5_001}, {}, "silent"),
        ({}, {"since_ms": AT_MS - 600_000}, ""),
        ({}, {"since_ms": AT_MS - 600_001}, "overdue"),
        ({"backed_off": (Mark.HOT,)}, {}, "hot"),
        ({"backed_off": (Mark.HOT, Mark.RAM)}, {}, "hot"),
        ({"backed_off": (Mark.RAM,)}, {}, "ram"),
        ({"backed_off": (Mark.HOT,)}, {"started": True}, ""),
        ({"temp_mc": 85_000}, {"started": True}, ""),
        ({"temp_mc": 85_001}, {"started": True}, "critical"),
        ({"temp_mc": None}, {"started": True}, ""),
    ],
)
def test_an_attempt_is_lost_for_a_reason(values: dict[str, Any], held: dict[str, Any], reason: str) -> None:
    """Each at its mark; the event names it."""
    row = node("n", assignments={"5-1": holding(request="brain/a", **{"attempt": 2, **held})}, **values)
    opened = {"brain/a": ASSIGNED}
    assert why_lost(grid(row, open_requests=opened), row, "5-1", row.assignments["5-1"]) == (reason or None)
    expected = [ev.AttemptAbandoned("brain/a", 2, "n", "5-1", AbandonReason(reason))] if reason else []
    assert answers(lost_attempts, row, open_requests=opened) == expected


@pytest.mark.parametrize("opened", [{}, {"brain/a": replace(ASSIGNED, work_id="6-0")}])
def test_what_is_no_current_attempt_only_waits_for_its_slot(opened: dict[str, Request]) -> None:
    """Whatever is wrong with its node; only when it is gone its slot is freed."""
    held = holding(request="brain/a", since_ms=0)
    row = node("n", heard_ms=None, temp_mc=90_000, backed_off=(Mark.HOT,), assignments={"5-1": held})
    assert answers(lost_attempts, row, open_requests=opened) == []
    gone = replace(row, assignments={"5-1": replace(held, missing=3)})
    assert len(answers(lost_attempts, gone, open_requests=opened)) == 1


def test_a_load_that_is_gone_is_nobodys_attempt() -> None:
    """Its memory is free again; no request is named."""
    row = node("n", assignments={"5-1": loading(MODEL, missing=3)})
    assert answers(lost_attempts, row) == [ev.AttemptAbandoned("", 0, "n", "5-1", AbandonReason.GONE)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (request(deadline_ms=AT_MS), []),
        (request(deadline_ms=AT_MS - 1), [ev.RequestExpired("brain/a")]),
        (ASSIGNED, []),
        (replace(ASSIGNED, body_lost=True), []),
        (
            replace(ASSIGNED, node="gone"),
            [ev.AttemptAbandoned("brain/a", 2, "gone", "5-1", AbandonReason.REMOVED)],
        ),
        (replace(ASSIGNED, node="gone", deadline_ms=AT_MS - 1), [ev.RequestExpired("brain/a")]),
        (request(body_lost=True), [ev.RequestFailed("brain/a", "body_gone")]),
        (request(failures=(Failure("n", "stream_cut", Blame.NODE),)), []),
        (
            request(failures=(Failure("n", "stream_cut", Blame.NODE),) * 4),
            [ev.RequestFailed("brain/a", "attempts_exhausted")],
        ),
        (replace(ASSIGNED, failures=(Failure("n", "stream_cut", Blame.NODE),) * 4), []),
    ],
)
def test_requests_end(row: Request, expected: list[ev.AnyEvent]) -> None:
    """Past the deadline, on a node that was removed, or without hope; others go on."""
    opened = {"brain/0": request(body_lost=True), "brain/a": row, "brain/z": request(body_lost=True)}
    first, *found, last = answers(ends, node("n"), open_requests=opened)
    assert (first, last) == (
        ev.RequestFailed("brain/0", "body_gone"),
        ev.RequestFailed("brain/z", "body_gone"),
    )
    assert found == expected


OTHER = Failure("n", "stream_cut", Blame.NODE)
AWAY = Failure("n", "ollama_unreachable", Blame.NODE)
BAD = Failure("n", "bad_options", Blame.REQUEST)
LARGE_ANSWER = Failure("n", "answer_too_large", Blame.REQUEST)
NO_PARTS = Failure("n", "parts_gone", Blame.REQUEST)


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ((), ""),
        ((OTHER,) * 3, ""),
        ((OTHER,) * 4, "attempts_exhausted"),
        ((AWAY, OTHER, AWAY, OTHER, AWAY, OTHER), ""),
        ((AWAY,) * 9, ""),
        ((BAD,), ""),
        ((BAD, BAD), "refused"),
        ((OTHER, BAD, OTHER, BAD), "refused"),
        ((BAD, LARGE_ANSWER), "answer_too_large"),
        ((LARGE_ANSWER, BAD), "refused"),
        ((LARGE_ANSWER, BAD, BAD), "refused"),
        ((LARGE_ANSWER, LARGE_ANSWER, BAD), "refused"),
        ((BAD, BAD, LARGE_ANSWER), "answer_too_large"),
        ((NO_PARTS,), "parts_gone"),
        ((OTHER, BAD, NO_PARTS), "parts_gone"),
        ((NO_PARTS, OTHER), ""),
    ],
)
def test_hope_ends_with_a_code(failures: tuple[Failure, ...], code: str) -> None:
    """Out of attempts that began, refused by the only node, or at once without its images; the latest
    refusal names the code."""
    some = grid(node("n"))
    assert why_hopeless(some, request(failures=failures)) == (code or None)
    assert why_hopeless(some, request(failures=failures, body_lost=True)) == "body_gone"


@pytest.mark.parametrize(
    ("others", "failures", "refused"),
    [
        ((), (BAD, BAD), True),
        ((), (BAD, OTHER), False),
        ((), (BAD, Failure("n", "ollama_error", Blame.NODE)), False),
        ((node("m"),), (BAD, BAD), False),
        ((node("m", inference=False),), (BAD, BAD), True),
        ((node("m", heard_ms=AT_MS - 6_000),), (BAD, BAD), True),
        ((node("m", temp_mc=90_000),), (BAD, BAD), True),
        ((node("m"),), (BAD, BAD, replace(OTHER, node="m", at_ms=AT_MS)), True),
        ((node("m"),), (BAD, BAD, replace(OTHER, node="m", at_ms=AT_MS - 1_000)), False),
        ((node("m", installed={HEAVY: node("n").installed[HEAVY]}),), (BAD, BAD), True),
        ((node("m"),), (BAD, replace(BAD, node="m")), True),
        ((node("l"), node("m")), (BAD, replace(BAD, node="m")), True),
        ((node("l"), node("m")), (BAD, replace(OTHER, node="m")), False),
    ],
)
def test_refused_is_by_two_nodes_or_the_only_one(
    others: tuple[Node, ...], failures: tuple[Failure, ...], refused: bool
) -> None:
    """A node that could be asked now has to be asked too: one that is away, hot or paused could not."""
    assert is_refused(grid(node("n"), *others), request(failures=failures)) is refused


@pytest.mark.parametrize(
    ("before_ms", "at_ms", "every_ms", "due"),
    [
        (19_999, 20_000, 10_000, True),
        (10_000, 19_999, 10_000, False),
        (10_001, 19_999, 10_000, False),
        (20_000, 20_000, 10_000, False),
        (9_999, 30_000, 10_000, True),
        (19_999, 20_000, 0, False),
    ],
)
def test_housekeeping_is_done_now_and_then(before_ms: int, at_ms: int, every_ms: int, due: bool) -> None:
    """When grid time passes a multiple; never with 0; not while somebody waits, but while others run."""
    policy = Policy(plan_every_ms=every_ms)
    row = node("n", heard_ms=at_ms)
    some = replace(
        grid(row, demand={MODEL: Demand(1_000, at_ms)}, policy=policy), at_ms=at_ms, before_ms=before_ms
    )
    assert [type(each) for each in housekeeping(under(some, policy))] == ([ev.LoadOrdered] if due else [])
    assert list(housekeeping(under(replace(some, open={"brain/a": request()}), policy))) == []
    runs = replace(some, open={"brain/a": replace(ASSIGNED, node="m")})
    assert len(list(housekeeping(under(runs, policy)))) == int(due)


@pytest.mark.parametrize(
    ("rows", "opened", "timed"),
    [
        ((), {}, False),
        ((node("n"),), {}, False),
        ((node("n"),), {"brain/a": request()}, True),
        ((node("n"), node("m", backed_off=(Mark.HOT,))), {}, True),
    ],
)
def test_time_matters_while_something_waits_for_it(
    rows: tuple[Node, ...], opened: dict[str, Request], timed: bool
) -> None:
    """An open request or a node that is backed off."""
    assert is_timed(grid(*rows, open_requests=opened)) is timed


def test_answers_are_bounded_and_build_on_each_other() -> None:
    """At most `max_events`; each question sees what was answered before, and the grid stays as it was."""
    hot = node("n", temp_mc=76_000, assignments={"5-1": holding(request="brain/a", attempt=2)})
    some = grid(hot, open_requests={"brain/a": ASSIGNED})
    kept = replace(some, nodes=dict(some.nodes), open=dict(some.open))
    every = decide(some)
    assert [type(each) for each in every] == [ev.NodeBackedOff, ev.AttemptAbandoned, ev.RequestDeferred]
    assert some == kept
    for limit in (1, 2, 3, 4):
        assert decide(under(some, Policy(max_events=limit))) == every[:limit]
    assert decide(some, (safety,)) == every[:1]


def test_a_node_is_judged_by_its_role_when_it_is_asked_again() -> None:
    """The robot has the model and never counts as another who could be asked."""
    robot = replace(node("orion-edge"), rules=NodeRules("orion-edge"))
    assert is_refused(grid(node("n"), robot), request(failures=(BAD, BAD))) is True


@pytest.mark.parametrize(
    ("model", "pinned_on", "goes"),
    [(MODEL, "n", HEAVY), (HEAVY, "n", MODEL), (MODEL, "m", MODEL)],
)
def test_a_full_node_lets_go_of_pinned_models_last(model: str, pinned_on: str, goes: str) -> None:
    """Those that are pinned here, whenever they were used."""
    found = answers(relief, full(), models={model: ModelRules(resident_on=(pinned_on,))})
    assert found == [ev.UnloadOrdered("n", goes, UnloadReason.RELIEF)]
