"""route(): laws for every grid, and the marks to the last unit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given

from orion_streams.decider.route import Reject, Route, Wait, Waiting, route
from orion_streams.model.state import Grid, Request
from orion_streams.model.verdict import Verdict
from tests.grids import AT_MS, MEMORY, POLICY, edge, grid, holding, node, request
from tests.properties import strategies as make
from tests.properties.oracle import Oracle, dumb_route
from tests.properties.oracle_memory import Queue


@make.laws(300)
@given(make.grids(), make.requests(), make.WAITINGS)
def test_it_equals_a_dumb_oracle(grid: Grid, request: Request, waiting: Waiting) -> None:
    """What becomes of a request, and every verdict to the last term, is what a naive router finds."""
    what, name, verdicts = dumb_route(grid, request, queue_of(waiting))
    decision = route(grid, request, waiting)
    assume(not any(is_contradiction(grid, request, waiting, each) for each in verdicts))
    assert decision.verdicts == verdicts
    match decision:
        case Route(found, _):
            assert (what, name) == ("route", found)
        case Wait(kind, found, _):
            assert (what, name) == (kind, found)
        case Reject(code, _):
            assert (what, name) == (code, "")


def is_contradiction(grid: Grid, request: Request, waiting: Waiting, verdict: Verdict) -> bool:
    """A runner that never fits here is on its way here: no decision ever brings that about."""
    judge = Oracle(grid, grid.nodes[verdict.node], request, queue_of(waiting))
    return verdict.filter == "too_large" and (judge.is_coming() or judge.is_behind())


def queue_of(waiting: Waiting) -> Queue:
    """The same queue in the oracle's words."""
    rows = waiting.ahead.items()
    return Queue(
        warm_ms={name: row.warm_ms for name, row in rows},
        cold_ms={name: row.cold_ms for name, row in rows},
        coming={name: row.coming for name, row in rows},
        models=tuple(waiting.models),
    )


def test_a_warm_node_wins_until_its_queue_costs_more_than_a_load() -> None:
    """Stickiness is arithmetic: a second copy, 4301 ms to load and what it keeps from others, is worth a
    queue of as much, no more."""
    copy_ms = 4_301 * (1 + POLICY.copy_loads)
    for queue_ms, expected in ((copy_ms - 1, "warm"), (copy_ms, "cold"), (copy_ms + 1, "cold")):
        busy = node("warm", slots=2, resident=MEMORY, assignments={"5-0": holding(run_ms=2 * queue_ms)})
        decision = route(grid(busy, node("cold")), request())
        assert isinstance(decision, Route)
        assert decision.node == expected


def test_the_best_node_is_waited_for_when_it_is_busy() -> None:
    """Where waiting is faster than a load elsewhere, the request waits for that node."""
    busy = node("warm", resident=MEMORY, assignments={"5-0": holding(run_ms=100)})
    decision = route(grid(busy, node("cold")), request())
    assert isinstance(decision, Wait)
    assert (decision.kind, decision.node) == ("busy", "warm")


@pytest.mark.parametrize(
    ("other", "rejected"),
    [
        ({"installed": {}}, True),
        ({"installed": {}, "temp_mc": 90_000}, True),
        ({"installed": {}, "heard_ms": None}, False),
        ({"installed": {}, "heard_ms": AT_MS - 9_000}, False),
        ({"installed": {}, "inventory_known": False}, False),
        ({"temp_mc": 90_000}, False),
    ],
)
def test_a_model_is_unknown_only_when_every_inventory_lacks_it(
    other: dict[str, Any], rejected: bool
) -> None:
    """Rejection needs the known inventory of every inference node; anything less is waiting."""
    decision = route(grid(edge(), node("a", installed={}), node("b", **other)), request())
    assert isinstance(decision, Reject) == rejected
