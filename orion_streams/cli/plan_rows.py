"""`orion plan` as plain rows: which models should live where, and what that is based on. Pure."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.memory import capacity_mb, committed_mb, limit_mb
from orion_streams.decider.placement import Placement, demand_of, plan
from orion_streams.model.state import Grid, Node

PLACED = ("keep", "load")


class PlanNode(Struct, frozen=True):
    """Of the `capacity_mb` that models may take of a node's memory, `planned_mb` are planned. Of the
    `limit_mb` that may be promised at all, the system's share included, `committed_mb` are used or
    promised now. `known`: it was heard from and its models are known; else nothing is planned on it."""

    node: str
    known: bool
    capacity_mb: int
    planned_mb: int
    limit_mb: int
    committed_mb: int


class PlanRows(Struct, frozen=True):
    """`orion plan`. `demand`: requests of late per model, in thousandths, halved every `half_ms`, the most
    wanted first. `acted_on`: the router carries the plan out while nodes are idle."""

    placements: list[Placement]
    nodes: list[PlanNode]
    demand: dict[str, int]
    half_ms: int
    acted_on: bool


def plan_rows(grid: Grid) -> PlanRows:
    """The plan for this grid, at its `at_ms`."""
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
    """A node's memory under the plan."""
    name, policy = node.rules.name, grid.policy
    heard = node.heard_ms is not None
    return PlanNode(
        node=name,
        known=heard and node.inventory_known,
        capacity_mb=max(capacity_mb(node, policy), 0),
        planned_mb=sum(each.size_mb for each in placements if each.node == name and each.action in PLACED),
        limit_mb=limit_mb(node, policy),
        committed_mb=committed_mb(grid, node) if heard else 0,
    )
