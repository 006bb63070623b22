"""Verdicts on one node, `n`, and how they differ from the usual ones."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from orion_streams.decider.route import Waiting, route
from orion_streams.model.policy import Policy
from orion_streams.model.state import Node, Request, Resident
from orion_streams.model.verdict import Verdict
from tests.grids import MODEL, POLICY, grid, node, request, under, verdict

HERE = Resident("a", 470, 4_096)


COLD = Verdict(
    node="n",
    cost_ms=4_301 + 80 + 5_060,
    load_ms=4_301,
    prefill_ms=80,
    decode_ms=5_060,
    free_slots=1,
    reserve_mb=477,
)


WARM = Verdict(node="n", cost_ms=80 + 5_060, prefill_ms=80, decode_ms=5_060, free_slots=1)


def judged(
    row: Node,
    asked: Request | None = None,
    policy: Policy = POLICY,
    waiting: Waiting | None = None,
    **values: Any,
) -> Verdict:
    """The verdict on `n`."""
    return verdict(route(under(grid(row, **values), policy), asked or request(), waiting), "n")


def warm(**values: Any) -> Node:
    """A node with the model in memory."""
    return node("n", **{"resident": {MODEL: HERE}, **values})


def but(usual: Verdict, cost_ms: int, **values: Any) -> Verdict:
    """The verdict with some terms, whose difference to the usual cost is given."""
    return replace(usual, cost_ms=usual.cost_ms + cost_ms, **values)
