"""`orion plan` in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from orion_streams.cli.plan_rows import PLACED, PlanNode, PlanRows
from orion_streams.decider.placement import Placement
from orion_streams.model.text import duration, gigabytes, ordinal, seconds

MOST_LINES = 12
"""Models told of one node."""
WHAT = {
    "keep": "is kept in memory",
    "load": "is to be loaded",
    "unload": "goes from memory",
    "leave": "may go from memory when its place is needed",
    "missing": "should be in memory, and is not on disk",
}
SELDOM = "asked for too seldom of late"
"""The reason of a placement that is made more precise here."""


class Line(NamedTuple):
    """What becomes of a model, by its action, and why."""

    action: str
    what: str
    why: str = ""


def of_node(found: PlanRows, node: PlanNode) -> list[Line]:
    """Return a line for each model that has a place on a node, or is in its memory without one."""
    rows = [each for each in found.placements if each.node == node.node]
    lines = [line_of(found, each) for each in rows[:MOST_LINES]]
    left = len(rows) - MOST_LINES
    return [*lines, Line("", f"… and {left} more; --json has them all")] if left > 0 else lines


def memory(node: PlanNode) -> str:
    """Say how much of a node's memory is planned for models, and how much is taken now."""
    if not node.known:
        return "not heard from, or its models are not known"
    planned = f"{gigabytes(node.planned_mb)} of {gigabytes(node.capacity_mb)} GB for models are planned"
    taken = f"{gigabytes(node.committed_mb)} of {gigabytes(node.limit_mb)} GB for everything"
    rests = f"; nothing is loaded there now: {node.rests}" if node.rests else ""
    return f"{planned}; {taken} are used or promised{rests}"


def line_of(found: PlanRows, each: Placement) -> Line:
    """Say what becomes of a model on a node, and why."""
    size = f" ({gigabytes(each.size_mb)} GB)" if each.size_mb else ""
    what = f"{each.model}{size} {WHAT.get(each.action, each.action)}"
    return Line(each.action, what, "; ".join(reasons(found, each)))


def reasons(found: PlanRows, each: Placement) -> Iterator[str]:
    """Yield why."""
    asked = found.demand.get(each.model, 0)
    is_worth = each.action in PLACED and each.saved_us_per_mb > 0
    if not is_worth or each.reason.startswith("pinned"):
        yield "nobody asked for it of late" if each.reason == SELDOM and not asked else each.reason
    if not is_worth or not asked:
        return
    total = sum(found.demand.values())
    copy = copy_of(found, each)
    if copy > 1:
        first = next(other.node for other in ranked(found, each.model))
        yield f"a {ordinal(copy)} copy, so that {first} is not alone with {share(asked, total)}"
    else:
        saved_ms = each.saved_us_per_mb * each.size_mb * total // asked // 1000
        yield f"{share(asked, total)} need it, and each would else wait {duration(saved_ms)} for its load"


def share(asked: int, total: int) -> str:
    """Say which part of the demand that is."""
    part = round(asked * 100 / total)
    return "all requests of late" if part == 100 else f"{max(part, 1)} % of the requests of late"


def ranked(found: PlanRows, model: str) -> list[Placement]:
    """Return the places of a model, in the order in which the plan gave them."""
    places = [each for each in found.placements if each.model == model and each.action in PLACED]
    return sorted(places, key=lambda each: -each.saved_us_per_mb)


def copy_of(found: PlanRows, each: Placement) -> int:
    """Return which copy of its model it is, from 1 on."""
    return ranked(found, each.model).index(each) + 1


def demand(found: PlanRows) -> str:
    """Describe the demand behind the plan."""
    if not found.demand:
        return "no demand is known yet: no model was asked for of late"
    total = sum(found.demand.values())
    shares = ", ".join(
        f"{model} {milli / 1000:.1f} ({milli * 100 / total:.0f} %)" for model, milli in found.demand.items()
    )
    return f"requests of late, by model (one counts half after {seconds(found.half_ms)}): {shares}"
