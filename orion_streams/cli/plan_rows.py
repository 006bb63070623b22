"""`orion plan` as plain rows: which models should live where, and why. Pure."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.filters import at_rest, in_quiet_hours
from orion_streams.decider.memory import capacity_mb, committed_mb, limit_mb
from orion_streams.decider.placement import Placement, demand_of, plan
from orion_streams.model.state import Grid, Node
from orion_streams.model.text import held_back

PLACED = ("keep", "load")


class PlanNode(Struct, frozen=True):
    """A node's memory. `planned_mb` of the `capacity_mb` for models are planned; `committed_mb` of the
    `limit_mb` for everything are used or promised now. Nothing is planned on a node that is not `known`: it
    was never heard from, or its models are unknown. `rests`: why nothing is loaded there, as somebody wants
    it."""

    node: str
    known: bool
    capacity_mb: int
    planned_mb: int
    limit_mb: int
    committed_mb: int
    rests: str = ""


class PlanRows(Struct, frozen=True):
    """`orion plan`. `demand`: recent requests per model in thousandths, halved every `half_ms`, in
    descending order. `acted_on`: the router carries the plan out while nodes are idle."""

    placements: list[Placement]
    nodes: list[PlanNode]
    demand: dict[str, int]
    half_ms: int
    acted_on: bool


def plan_rows(grid: Grid) -> PlanRows:
    """Compute the plan for this grid at its `at_ms`."""
    policy = grid.policy
    demand = demand_of(grid)
    placements = list(plan(grid, demand))
    return PlanRows(
        placements=placements,
        nodes=[
            plan_node(grid, node, placements)
            for _, node in sorted(grid.nodes.items())
            if node.rules.takes_inference
        ],
        demand=dict(sorted(demand.items(), key=lambda item: (-item[1], item[0]))),
        half_ms=policy.demand_half_ms,
        acted_on=policy.plan_every_ms > 0,
    )


def plan_node(grid: Grid, node: Node, placements: list[Placement]) -> PlanNode:
    """Return the memory of a node under the plan."""
    name, policy = node.rules.name, grid.policy
    heard = node.heard_ms is not None
    rest = at_rest(grid, node) or in_quiet_hours(grid, node)
    return PlanNode(
        node=name,
        known=heard and node.inventory_known,
        capacity_mb=max(capacity_mb(node, policy), 0),
        planned_mb=sum(each.size_mb for each in placements if each.node == name and each.action in PLACED),
        limit_mb=limit_mb(node, policy),
        committed_mb=committed_mb(grid, node) if heard else 0,
        rests=held_back(rest) if rest is not None else "",
    )
