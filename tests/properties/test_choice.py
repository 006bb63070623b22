"""route(): who may be chosen, and what may change the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.config import parse
from orion_streams.decider import route as routing
from orion_streams.decider.route import Decision, Reject, Route, Wait, route
from orion_streams.errors import ConfigError
from orion_streams.model import policy
from orion_streams.model.policy import NodeRules
from orion_streams.model.state import Demand, Grid, Node, Request, Resident, Run
from tests.grids import (
    AT_MS,
    HEAVY,
    LIBRARY,
    MEMORY,
    MODEL,
    edge,
    fails,
    grid,
    holding,
    node,
    request,
    under,
)
from tests.properties import strategies as make
from tests.properties.oracle import OF_THE_REQUEST, obstacles

Router = Callable[[Grid, Request], Decision]


def choice(decision: Decision) -> str:
    """The node that it is sent to or waits for, if any."""
    return "" if isinstance(decision, Reject) else decision.node


def is_fit(router: Router, some: Grid, asked: Request) -> None:
    """Law 1: whoever is chosen passes every filter, and gets something only with a free slot."""
    decision = router(some, asked)
    if name := choice(decision):
        assert obstacles(some, name, asked) == []
    if isinstance(decision, Route):
        runs = [held for held in some.nodes[decision.node].assignments.values() if isinstance(held, Run)]
        assert len(runs) < some.nodes[decision.node].rules.slots + some.policy.prefetch


def is_no_robot(router: Router, some: Grid, asked: Request) -> None:
    """Law 2: neither the robot nor a node without inference is chosen, or waited for."""
    name = choice(router(some, asked))
    assert name != "orion-edge"
    assert not name or some.nodes[name].rules.inference


@make.MANY
@given(make.grids(), make.requests())
def test_a_chosen_node_passes_every_filter(some: Grid, asked: Request) -> None:
    """Whoever is chosen passes every filter, by the oracle's arithmetic."""
    is_fit(route, some, asked)


@pytest.mark.parametrize("trouble", make.TROUBLES, ids="-".join)
def test_a_router_that_does_not_see_a_trouble_breaks_the_law(trouble: dict[str, Any]) -> None:
    """Negative control: blind to any one condition, a router chooses a node that fails its filter."""
    sick, asked = grid(node("n", **trouble)), request()

    def blind(some: Grid, wanted: Request) -> Decision:
        return route(grid(node("n")), wanted)

    is_fit(route, sick, asked)
    assert fails(is_fit, blind, sick, asked)


@make.MANY
@given(make.grids(), make.requests(), st.booleans())
def test_the_robot_and_nodes_without_inference_get_nothing(
    some: Grid, asked: Request, inference: bool
) -> None:
    """However attractive the robot is made, it is never chosen, nor is a node without inference."""
    robot = replace(
        edge(resident=MEMORY, installed=LIBRARY), rules=NodeRules("orion-edge", inference=inference)
    )
    is_no_robot(route, replace(some, nodes={**some.nodes, "orion-edge": robot}), asked)


def test_the_robot_is_not_chosen_though_it_is_the_only_one() -> None:
    """The model in its memory, inference = true, nobody else there: it still gets nothing."""
    alone = grid(edge(inference=True))
    decision = route(alone, request())
    assert isinstance(decision, Reject)
    assert [each.filter for each in decision.verdicts] == ["role"]


def test_the_robots_name_is_what_protects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the rule of the name, a configuration mistake would send it work."""
    alone = grid(edge(inference=True))
    is_no_robot(route, alone, request())
    monkeypatch.setattr(policy, "ROBOT", "nobody")
    assert fails(is_no_robot, route, alone, request())


@pytest.mark.parametrize(
    "text",
    [
        '[nodes.orion-edge]\nollama = "http://pi:11434"',
        "[nodes.orion-edge]\ninference = true",
        '[nodes.pi]\nollama = "http://orion-edge:11434"',
    ],
)
def test_a_configuration_that_would_use_the_robot_is_refused(text: str) -> None:
    """The mistake is named when streams.toml is read."""
    with pytest.raises(ConfigError, match="orion-edge is the robot and never runs inference"):
        parse(text)


def ineligible(name: str) -> st.SearchStrategy[Node]:
    """Nodes that take no request at all, with any model in memory."""
    troubles = st.sampled_from([each for each in make.TROUBLES if "installed" not in each])
    sick = st.tuples(make.nodes(name), troubles).map(lambda pair: replace(pair[0], **pair[1]))
    return st.one_of(sick, make.nodes(name).map(without_inference))


def without_inference(row: Node) -> Node:
    """The node, excluded by configuration."""
    return replace(row, rules=replace(row.rules, inference=False))


@make.MANY
@given(make.grids(), make.requests(), st.sampled_from(["a-first", "z-last"]).flatmap(ineligible))
def test_another_unfit_node_changes_nothing(some: Grid, asked: Request, more: Node) -> None:
    """A node that takes nothing leaves the choice, and every other verdict, as it was."""
    name = more.rules.name
    larger = replace(some, nodes={**some.nodes, name: more})
    assume(not OF_THE_REQUEST.issuperset(obstacles(larger, name, asked)))
    before, after = route(some, asked), route(under(larger, some.policy), asked)
    assert choice(before) == choice(after)
    assert isinstance(before, Route) == isinstance(after, Route)
    assert before.verdicts == tuple(each for each in after.verdicts if each.node != name)


def test_a_copy_on_a_node_that_is_out_is_no_copy() -> None:
    """What an eviction costs others does not depend on a node that gets nothing: the robot's memory."""
    tight = node("n", ram_total_mb=4_000, resident={HEAVY: Resident("b", 2_600)})
    asked, demand = request(num_ctx=8_192), {HEAVY: Demand(1_000, AT_MS)}
    alone, with_robot = grid(tight, demand=demand), grid(tight, edge(), demand=demand)
    [before], [after, _] = (
        route(alone, asked).verdicts,
        route(under(with_robot, alone.policy), asked).verdicts,
    )
    assert before.evicts == (HEAVY,)
    assert before == after


# --- cheaper ---------------------------------------------------------------------------------------


MEASURED = ("load_ms", "prefill_us_per_token", "decode_us_per_token")


def faster(some: Grid, name: str, asked: Request) -> Grid:
    """Its learned speeds are twice as good."""
    key = name, asked.model
    if key not in some.speeds:
        return some
    known = some.speeds[key]
    halves = {field: (getattr(known, field) + 1) // 2 for field in MEASURED}
    return replace(some, speeds={**some.speeds, key: replace(known, **halves)})


def with_node(some: Grid, name: str, **values: Any) -> Grid:
    """The grid with other values in one row."""
    return replace(some, nodes={**some.nodes, name: replace(some.nodes[name], **values)})


def less_to_do(some: Grid, name: str, asked: Request) -> Grid:
    """What it holds takes half as long."""
    held = some.nodes[name].assignments
    return with_node(
        some, name, assignments={key: replace(row, run_ms=row.run_ms // 2) for key, row in held.items()}
    )


def cooler(some: Grid, name: str, asked: Request) -> Grid:
    """It is nowhere near the mark."""
    return with_node(some, name, forecast_mc=50_000)


def fresher(some: Grid, name: str, asked: Request) -> Grid:
    """It was heard from this very moment."""
    return with_node(some, name, heard_ms=some.at_ms)


def at_home(some: Grid, name: str, asked: Request) -> Grid:
    """The request's tier is its own."""
    rules = some.nodes[name].rules
    return with_node(some, name, rules=replace(rules, tiers=(*rules.tiers, asked.tier)))


def acquainted(some: Grid, name: str, asked: Request) -> Grid:
    """It holds the conversation's prefix."""
    return with_node(some, name, sessions={asked.model: (asked.session or "s1",)})


@make.MANY
@given(
    make.grids(fit=True, least=2),
    make.requests(),
    st.sampled_from([faster, less_to_do, cooler, fresher, at_home, acquainted]),
)
def test_making_the_winner_cheaper_keeps_it_the_winner(
    some: Grid, asked: Request, cheaper: Callable[[Grid, str, Request], Grid]
) -> None:
    """Whatever lowers the winner's cost, it stays the winner."""
    keeps_the_winner(route, some, asked, cheaper)


def keeps_the_winner(router: Router, some: Grid, asked: Request, cheaper: Any) -> None:
    """Law 5, for any router."""
    if winner := choice(router(some, asked)):
        assert choice(router(cheaper(some, winner, asked), asked)) == winner


def test_a_router_that_likes_it_dear_breaks_the_law() -> None:
    """Negative control: where the highest cost wins, a discount loses the choice."""

    def dearest(some: Grid, asked: Request) -> Decision:
        found = route(some, asked)
        return Route(max(found.verdicts, key=lambda each: each.cost_ms).node, found.verdicts)

    busy = grid(
        *(
            node(name, slots=2, resident=MEMORY, assignments={"5-0": holding(run_ms=ms)})
            for name, ms in (("a", 900), ("b", 600))
        )
    )
    keeps_the_winner(route, busy, request(), less_to_do)
    assert fails(keeps_the_winner, dearest, busy, request(), less_to_do)


@make.MANY
@given(
    make.nodes("warm", fit=True),
    make.requests(model=(MODEL, HEAVY), failures=((),), tier=(0, 1, 2)),
    st.sampled_from(["a", "z"]),
)
def test_a_warm_idle_node_beats_a_cold_one(base: Node, asked: Request, other: str) -> None:
    """Of two nodes alike in all but memory, the one with the runner there is chosen, idle as it is."""
    base = replace(base, installed=LIBRARY, assignments={}, unload_ordered_ms={}, sessions={})
    on_disk = LIBRARY[asked.model]
    runner = Resident(on_disk.digest, on_disk.size_mb, asked.num_ctx, asked.num_ctx, asked.runner)
    strangers = {name: row for name, row in base.resident.items() if row.digest != on_disk.digest}
    warm = replace(base, resident={**strangers, asked.model: runner})
    cold = replace(base, resident=strangers, rules=replace(base.rules, name=other))
    both = grid(warm, cold)
    decision = route(both, asked)
    assert choice(decision) == "warm"
    assert isinstance(decision, Wait) == (base.forecast_mc > both.policy.temp_max_mc)


@make.MANY
@given(make.grids(), make.requests(), make.WAITINGS)
def test_the_terms_add_up_to_the_cost(some: Grid, asked: Request, waiting: routing.Waiting) -> None:
    """Every verdict is either a filter without a cost or a cost that is the sum of its terms."""
    for each in route(some, asked, waiting).verdicts:
        added = each.drain_ms + each.load_ms + each.evict_ms + each.prefill_ms + each.decode_ms
        extra = each.heat_ms + each.spill_ms + each.retry_ms + each.late_ms
        assert each.cost_ms == added + extra - each.cached_ms
        assert not each.filter or each.cost_ms == 0
        assert min(added, extra, each.cached_ms, each.prefill_ms - each.cached_ms) >= 0


@make.FEW
@given(make.grids(), make.requests())
def test_it_changes_nothing(some: Grid, asked: Request) -> None:
    """Routing leaves the grid as it was."""
    before = msgspec.msgpack.encode(some)
    route(some, asked)
    assert msgspec.msgpack.encode(some) == before
