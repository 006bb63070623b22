"""route(): laws for every grid, and the marks to the last unit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.events import Verdict
from orion_streams.routing import Ahead, Decision, Reject, Route, Wait, Waiting, ram_permille, route
from orion_streams.state import Failure, Grid, Node, Request
from tests import grids as make
from tests.grids import AT_MS, DISK, HEAVY, MEMORY, MODEL, POLICY, edge, grid, holding, node, request


def verdict(decision: Decision, name: str) -> Verdict:
    """One node's verdict."""
    return next(each for each in decision.verdicts if each.node == name)


def dumb_route(grid: Grid, request: Request) -> str:
    """A deliberately naive router: the name of the node that is best, or nothing. It shares no code with
    the real one."""
    costs = []
    for name in sorted(grid.nodes):
        row = grid.nodes[name]
        if name != "orion-edge" and fit(row, request):
            size = DISK[request.model].size_mb
            warm = request.model in row.resident
            coming = any(held.model == request.model for held in row.holdings.values())
            load = 0 if warm or coming else size * 17_000 // 1000
            length = POLICY.prior_tokens
            if request.num_predict and request.num_predict < length:
                length = request.num_predict
            if request.kind == "embed":
                length = 0
            left = 0
            for held in row.holdings.values():
                left += max(0, held.run_ms - (AT_MS - held.since_ms if held.started else 0))
            cost = left // row.rules.slots + load
            cost += request.prompt_tokens * size * 16 // 1000 + length * size * 100 // 1000
            if request.tier != 0 and request.tier not in row.rules.tiers:
                cost += 15_000
            costs.append((cost, name))
    return min(costs)[1] if costs else ""


def fit(row: Node, request: Request) -> bool:
    """Whether a node may be used at all."""
    return (
        row.rules.inference
        and row.heard_ms is not None
        and AT_MS - row.heard_ms <= 5_000
        and row.inventory_known
        and request.model in row.installed
        and not (row.two_agents_ms is not None and AT_MS - row.two_agents_ms <= 30_000)
        and not (row.temp_mc is None and row.rules.temperature_sensor)
        and not (row.temp_mc is not None and row.temp_mc > 75_000)
        and row.ram_used_mb * 10 <= row.ram_total_mb * 9
        and row.backed_off == ""
    )


@given(make.grids(), make.requests())
def test_it_equals_a_dumb_oracle(grid: Grid, request: Request) -> None:
    """The node that is chosen or waited for is the one that a naive router finds."""
    match route(grid, request, POLICY):
        case Route(name, _) | Wait("busy", name, _):
            assert name == dumb_route(grid, request)
        case _:
            assert dumb_route(grid, request) == ""


@given(make.grids(), make.requests())
def test_a_chosen_node_passes_every_filter(grid: Grid, request: Request) -> None:
    """Whoever is chosen has no filter in its verdict and a free slot; the terms add up to its cost."""
    decision = route(grid, request, POLICY)
    assert [each.node for each in decision.verdicts] == sorted(grid.nodes)
    for each in decision.verdicts:
        terms = each.drain_ms + each.run_ms + each.spill_ms + each.retry_ms
        assert each.cost_ms == (0 if each.filter else terms)
    if isinstance(decision, Route):
        chosen = verdict(decision, decision.node)
        assert not chosen.filter
        assert chosen.free_slots > 0


@given(make.grids(), make.requests(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(grid: Grid, request: Request, random: Any) -> None:
    """The same nodes in another order give the same decision, byte for byte."""
    names = list(grid.nodes)
    random.shuffle(names)
    shuffled = replace(grid, nodes={name: grid.nodes[name] for name in names})
    first, second = route(grid, request, POLICY), route(shuffled, request, POLICY)
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


@given(make.grids(), make.requests())
def test_another_unfit_node_changes_nothing(grid: Grid, request: Request) -> None:
    """A node that may not be used leaves the choice among the others as it is."""
    more = replace(grid, nodes={**grid.nodes, "a-robot": replace(edge(), rules=edge().rules)})
    more.nodes["a-robot"] = replace(edge(), rules=replace(edge().rules, name="a-robot"))
    first, second = route(grid, request, POLICY), route(more, request, POLICY)
    assert type(first) is type(second)
    assert getattr(first, "node", "") == getattr(second, "node", "")


@given(make.grids(), make.requests())
def test_it_changes_nothing(grid: Grid, request: Request) -> None:
    """Routing leaves the grid as it was."""
    before = msgspec.msgpack.encode(grid)
    route(grid, request, POLICY)
    assert msgspec.msgpack.encode(grid) == before


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
        ({"backed_off": "hot"}, "hot"),
        ({"backed_off": "ram"}, "ram"),
        ({"inventory_known": False}, "inventory_unknown"),
        ({"installed": {}}, "not_installed"),
        ({"two_agents_ms": AT_MS - 30_000}, "two_agents"),
        ({"two_agents_ms": AT_MS - 30_001}, ""),
    ],
)
def test_each_filter_trips_strictly_beyond_its_mark(values: dict[str, Any], reason: str) -> None:
    """At a mark a node is still fit, one unit beyond it is not, and the verdict names the filter."""
    decision = route(grid(node("orion-worker", **values)), request(), POLICY)
    assert verdict(decision, "orion-worker").filter == reason
    assert isinstance(decision, Route) == (reason == "")


def test_a_full_permille_is_never_rounded_away() -> None:
    """A memory just above the mark does not read as the mark."""
    assert ram_permille(node("n", ram_used_mb=9_001, ram_total_mb=10_000)) == 901


def test_the_robot_is_never_chosen() -> None:
    """A node without inference gets nothing, though it is the only one and has the model in memory."""
    decision = route(grid(edge()), request(), POLICY)
    assert not isinstance(decision, Route)
    assert verdict(decision, "orion-edge").filter == "role"


def test_a_warm_idle_node_beats_a_cold_one() -> None:
    """Of two alike nodes the one with the model in memory is chosen, whatever their names."""
    for warm, cold in (("a", "b"), ("b", "a")):
        decision = route(grid(node(warm, resident=MEMORY), node(cold)), request(), POLICY)
        assert isinstance(decision, Route)
        assert decision.node == warm


def test_a_warm_node_wins_until_its_queue_costs_more_than_a_load() -> None:
    """Stickiness is arithmetic: a load of 4301 ms elsewhere is worth a queue of as much, no more."""
    for queue_ms, expected in ((4_300, "warm"), (4_302, "cold")):
        busy = node("warm", slots=2, resident=MEMORY, holdings={"5-0": holding(run_ms=2 * queue_ms)})
        decision = route(grid(busy, node("cold")), request(), POLICY)
        assert isinstance(decision, Route)
        assert decision.node == expected


def test_the_best_node_is_waited_for_when_it_is_busy() -> None:
    """Where waiting is faster than a load elsewhere, the request waits for that node."""
    busy = node("warm", resident=MEMORY, holdings={"5-0": holding(run_ms=100)})
    decision = route(grid(busy, node("cold")), request(), POLICY)
    assert isinstance(decision, Wait)
    assert (decision.kind, decision.node) == ("busy", "warm")


def test_work_ahead_counts_as_drain() -> None:
    """A queue that is served before makes a node dearer by its length."""
    decision = route(grid(node("a"), node("b")), request(), POLICY, Waiting({"a": Ahead(warm_ms=5)}))
    assert isinstance(decision, Route)
    assert decision.node == "b"
    assert verdict(decision, "a").drain_ms == 5


def test_a_tier_is_preferred_and_not_forced() -> None:
    """A tier decides between alike nodes; the other one takes over when its own is out."""
    master, worker = node("orion-master", tiers=(1,)), node("orion-worker", tiers=(2,))
    for tier, expected in ((1, "orion-master"), (2, "orion-worker")):
        decision = route(grid(master, worker), request(tier=tier), POLICY)
        assert isinstance(decision, Route)
        assert decision.node == expected
    spilled = route(grid(master, replace(worker, temp_mc=80_000)), request(tier=2), POLICY)
    assert isinstance(spilled, Route)
    assert spilled.node == "orion-master"


def test_where_it_failed_it_goes_again_only_without_another_choice() -> None:
    """A failure on a node makes it dear, not impossible."""
    failed = request(failures=(Failure("a", "stream_cut", "node"),))
    decision = route(grid(node("a", resident=MEMORY), node("b")), failed, POLICY)
    assert isinstance(decision, Route)
    assert decision.node == "b"
    alone = route(grid(node("a")), failed, POLICY)
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
    decision = route(grid(edge(), node("a", installed={}), node("b", **other)), request(), POLICY)
    assert isinstance(decision, Reject) == rejected


def test_an_embedding_has_no_answer_to_decode() -> None:
    """Embedding costs a load and a prefill only."""
    decision = route(grid(node("a")), request(kind="embed", model=HEAVY), POLICY)
    assert verdict(decision, "a").decode_ms == 0


def test_a_limit_shortens_the_expected_answer() -> None:
    """num_predict bounds the expected length, never stretches it."""
    costs = {
        asked: verdict(route(grid(node("a")), request(num_predict=asked), POLICY), "a").decode_ms
        for asked in (0, 10, 200, 5_000)
    }
    assert costs[10] * 20 == costs[200] == costs[0] == costs[5_000]


def test_a_load_in_progress_is_not_paid_twice() -> None:
    """Who waits behind a run that loads the same model pays its drain, not another load."""
    loading = node("a", slots=2, holdings={"5-0": holding(MODEL, 3_000, cold=True)})
    other = verdict(route(grid(loading), request(), POLICY), "a")
    assert (other.load_ms, other.drain_ms) == (0, 1_500)
