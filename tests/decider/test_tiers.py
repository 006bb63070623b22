"""Law 19: a tier is preferred, what spills costs, and policy.spill_forbidden forbids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.decider.route import Route, Wait, route
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark
from tests.grids import AT_MS, MEMORY, POLICY, grid, holding, kinds, node, request, under, verdict
from tests.properties import strategies as make

FORBIDDEN = Policy(spill_forbidden=(1,))


def house(
    policy: Policy = POLICY, master: dict[str, Any] | None = None, worker: dict[str, Any] | None = None
) -> Grid:
    """orion-master for tier 1, orion-worker for tier 2, both warm."""
    return grid(
        node("orion-master", tiers=(1,), **{"resident": MEMORY, **(master or {})}),
        node("orion-worker", tiers=(2,), **{"resident": MEMORY, **(worker or {})}),
        policy=policy,
    )


@pytest.mark.parametrize(
    ("tier", "expected"),
    [(0, "orion-master"), (1, "orion-master"), (2, "orion-worker"), (3, "orion-master")],
)
def test_between_nodes_alike_the_tier_decides(tier: int, expected: str) -> None:
    """Validation to orion-master, heavy analysis to orion-worker; without a wish, or with one that nobody
    has, the first name."""
    decision = route(house(), request(tier=tier))
    assert isinstance(decision, Route)
    assert decision.node == expected
    costs = {each.node: each.spill_ms for each in decision.verdicts}
    assert costs == {
        "orion-master": 0 if tier in (0, 1) else POLICY.spill_ms,
        "orion-worker": 0 if tier in (0, 2) else POLICY.spill_ms,
    }


@make.MANY
@given(st.one_of(st.integers(0, 40_000), st.integers(14_998, 15_002)))
def test_a_request_spills_as_soon_as_its_own_node_takes_longer(queue_ms: int) -> None:
    """Spilling over is worth 15 seconds of queue on the tier's own node, to the millisecond."""
    held = {"5-0": holding(run_ms=queue_ms)}
    decision = route(house(worker={"assignments": held}), request(tier=2))
    spills = queue_ms >= 15_000
    assert isinstance(decision, Route) == spills
    assert not spills or decision == Route("orion-master", decision.verdicts)


@pytest.mark.parametrize(
    "trouble", [{"temp_mc": 75_001}, {"heard_ms": AT_MS - 5_001}, {"backed_off": (Mark.RAM,)}]
)
def test_the_other_node_takes_over_when_the_tiers_own_is_out(trouble: dict[str, Any]) -> None:
    """A preference holds nobody up."""
    for out, tier, other in (("master", 1, "orion-worker"), ("worker", 2, "orion-master")):
        some = house(master=trouble) if out == "master" else house(worker=trouble)
        decision = route(some, request(tier=tier))
        assert isinstance(decision, Route)
        assert decision.node == other


@pytest.mark.parametrize(
    "trouble", [{"temp_mc": 75_001}, {"heard_ms": None}, {"assignments": {"5-0": holding(run_ms=90_000)}}]
)
def test_what_is_forbidden_to_spill_waits_for_its_own_node(trouble: dict[str, Any]) -> None:
    """However long that takes, and the verdict says that it is the tier that holds the other one back."""
    some = house(FORBIDDEN, master=trouble)
    decision = route(under(some, FORBIDDEN), request(tier=1))
    assert isinstance(decision, Wait)
    assert decision.node in ("", "orion-master")
    found = verdict(decision, "orion-worker")
    assert (found.filter, found.value) == ("tier", 1)
    some.open = {"brain/q": request(tier=1)}
    assert kinds(decide(under(some, FORBIDDEN)))[-1] == "request.deferred"


def test_only_the_tiers_that_are_named_are_forbidden_to_spill() -> None:
    """Another tier spills over as ever."""
    some = house(FORBIDDEN, worker={"temp_mc": 80_000})
    assert isinstance(route(under(some, FORBIDDEN), request(tier=2)), Route)
    assert isinstance(route(under(some, FORBIDDEN), request(tier=0)), Route)


@make.MANY
@given(make.grids(), make.requests(tier=(1, 1, 2)))
def test_a_forbidden_tier_never_runs_elsewhere(some: Grid, asked: Any) -> None:
    """In every grid: a tier that is forbidden to spill is sent to, or waits for, a node of its own only."""
    policy = Policy(spill_forbidden=(1,))
    decision = route(under(replace(some, policy=policy), policy), asked)
    if asked.tier == 1 and isinstance(decision, Route | Wait) and decision.node:
        assert 1 in some.nodes[decision.node].rules.tiers


def test_without_the_rule_it_would_spill() -> None:
    """Negative control: the same request, the same grid, and nothing forbidden."""
    some = house(master={"temp_mc": 80_000})
    decision = route(some, request(tier=1))
    assert isinstance(decision, Route)
    assert decision.node == "orion-worker"
