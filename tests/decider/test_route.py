"""route(): laws for every grid, and the marks to the last unit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from msgspec.structs import replace

from orion_streams.decider.route import Ahead, Reject, Route, Wait, Waiting, route
from orion_streams.model.events import Verdict
from orion_streams.model.marks import ram_permille
from orion_streams.model.state import Failure, Grid, Request
from orion_streams.model.vocabulary import Blame, Mark
from tests.grids import AT_MS, HEAVY, MEMORY, MODEL, POLICY, edge, grid, holding, node, request, verdict
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


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"temp_mc": 75_000}, ""),
        ({"temp_mc": 75_001}, "hot"),
        ({"ram_used_mb": 7_200, "resident": MEMORY}, ""),
        ({"ram_used_mb": 7_200}, "memory"),
        ({"ram_used_mb": 7_201}, "ram"),
        ({"heard_ms": AT_MS - 5_000}, ""),
        ({"heard_ms": AT_MS - 5_001}, "stale"),
        ({"heard_ms": None}, "silent"),
        ({"temp_mc": None}, "no_temperature"),
        ({"backed_off": (Mark.HOT,)}, "hot"),
        ({"backed_off": (Mark.RAM,)}, "ram"),
        ({"inventory_known": False}, "inventory_unknown"),
        ({"installed": {}}, "not_installed"),
        ({"two_agents_ms": AT_MS - 30_000}, "two_agents"),
        ({"two_agents_ms": AT_MS - 30_001}, ""),
    ],
)
def test_each_filter_trips_strictly_beyond_its_mark(values: dict[str, Any], reason: str) -> None:
    """At a mark a node is still fit, one unit beyond it is not, and the verdict names the filter."""
    decision = route(grid(node("orion-worker", **values)), request())
    assert verdict(decision, "orion-worker").filter == reason
    assert isinstance(decision, Route) == (reason == "")


def test_a_full_permille_is_never_rounded_away() -> None:
    """A memory just above the mark does not read as the mark."""
    assert ram_permille(node("n", ram_used_mb=9_001, ram_total_mb=10_000)) == 901


def test_the_robot_is_never_chosen() -> None:
    """A node without inference gets nothing, though it is the only one and has the model in memory."""
    decision = route(grid(edge()), request())
    assert not isinstance(decision, Route)
    assert verdict(decision, "orion-edge").filter == "role"


def test_a_warm_idle_node_beats_a_cold_one() -> None:
    """Of two alike nodes the one with the model in memory is chosen, whatever their names."""
    for warm, cold in (("a", "b"), ("b", "a")):
        decision = route(grid(node(warm, resident=MEMORY), node(cold)), request())
        assert isinstance(decision, Route)
        assert decision.node == warm


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


def test_work_ahead_counts_as_drain() -> None:
    """A queue that is served before makes a node dearer by its length."""
    decision = route(grid(node("a"), node("b")), request(), Waiting({"a": Ahead(warm_ms=5)}))
    assert isinstance(decision, Route)
    assert decision.node == "b"
    assert verdict(decision, "a").drain_ms == 5


def test_a_tier_is_preferred_and_not_forced() -> None:
    """A tier decides between alike nodes; the other one takes over when its own is out."""
    master, worker = node("orion-master", tiers=(1,)), node("orion-worker", tiers=(2,))
    for tier, expected in ((1, "orion-master"), (2, "orion-worker")):
        decision = route(grid(master, worker), request(tier=tier))
        assert isinstance(decision, Route)
        assert decision.node == expected
    spilled = route(grid(master, replace(worker, temp_mc=80_000)), request(tier=2))
    assert isinstance(spilled, Route)
    assert spilled.node == "orion-master"


def test_where_it_failed_it_goes_again_only_without_another_choice() -> None:
    """A failure on a node makes it dear, not impossible."""
    failed = request(failures=(Failure("a", "stream_cut", Blame.NODE),))
    decision = route(grid(node("a", resident=MEMORY), node("b")), failed)
    assert isinstance(decision, Route)
    assert decision.node == "b"
    alone = route(grid(node("a")), failed)
    assert isinstance(alone, Route)


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


def test_an_embedding_has_no_answer_to_decode() -> None:
    """Embedding costs a load and a prefill only."""
    decision = route(grid(node("a")), request(kind="embed", model=HEAVY))
    assert verdict(decision, "a").decode_ms == 0


def test_a_limit_shortens_the_expected_answer() -> None:
    """num_predict bounds the expected length, never stretches it."""
    costs = {
        asked: verdict(route(grid(node("a")), request(num_predict=asked)), "a").decode_ms
        for asked in (0, 10, 200, 5_000)
    }
    assert costs[10] * 20 == costs[200] == costs[0] == costs[5_000]


def test_a_load_in_progress_is_not_paid_twice() -> None:
    """Who waits behind a run that loads the same model pays its drain, not another load."""
    loading = node("a", slots=2, assignments={"5-0": holding(MODEL, 3_000, cold=True)})
    other = verdict(route(grid(loading), request()), "a")
    assert (other.load_ms, other.drain_ms) == (0, 1_500)
