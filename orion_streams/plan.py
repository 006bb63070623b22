"""plan(): which models should live where, so that all memory of the house is used. Pure.

Greedy by what a MB saves: for each model on each node that has it on disk, the load that its next request
would cost, times how often it is asked for. A second copy saves less than the first. Pins come first; what
is in memory has a small advantage, so that two models of equal worth do not take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from orion_streams import events as ev
from orion_streams.config import Policy
from orion_streams.ledger import NO_RULES, capacity_mb, footprint_mb, room
from orion_streams.routing import demand_now, expected_load_ms, trouble
from orion_streams.state import Grid, Node

SECOND_COPY = 4
"""A further copy of a model that has a place already is worth so many times less."""
STAY_NUM, STAY_DEN = 5, 4
"""What is in memory counts for a quarter more."""


class Placement(Struct, frozen=True):
    """A line of the plan. `action`: keep, load, unload (makes room for a load) or leave (it may go, when
    its place is needed). `saved_us_per_mb`: expected load time that a MB of it saves, in µs per request
    of all models."""

    node: str
    model: str
    action: str
    size_mb: int
    saved_us_per_mb: int
    reason: str


class Candidate(Struct, frozen=True):
    """A model that could live on a node. `worth` orders them: µs saved per MB, now."""

    worth: int
    node: str
    model: str
    size_mb: int
    pinned: bool
    resident: bool


def demand_of(grid: Grid, policy: Policy) -> dict[str, int]:
    """Requests per model of late, in thousandths."""
    return {model: milli for model in grid.demand if (milli := demand_now(grid, model, policy))}


def plan(grid: Grid, demand: Mapping[str, int], policy: Policy) -> tuple[Placement, ...]:
    """What should be in memory on each node, and the reason, node by node, the most valuable first."""
    free_mb = {
        name: capacity_mb(node, policy)
        for name, node in sorted(grid.nodes.items())
        if node.rules.takes_inference and node.heard_ms is not None and node.inventory_known
    }
    copies: dict[str, int] = {}
    placed: list[Placement] = []
    left = candidates(grid, free_mb, demand, policy)
    while left:
        best = max(left, key=lambda each: rank(each, copies))
        left.remove(best)
        worth = worth_now(best, copies)
        fits = best.size_mb <= free_mb[best.node]
        if (worth or best.pinned) and fits:
            free_mb[best.node] -= best.size_mb
            copies[best.model] = copies.get(best.model, 0) + 1
            placed.append(chosen(best, worth, copies[best.model]))
        elif best.resident:
            why = "not asked for of late" if not worth else "others save more in its place"
            placed.append(Placement(best.node, best.model, "leave", best.size_mb, worth, why))
    return tuple(
        sorted(
            placed, key=lambda each: (each.node, each.action == "leave", -each.saved_us_per_mb, each.model)
        )
    )


def candidates(
    grid: Grid, nodes: Mapping[str, int], demand: Mapping[str, int], policy: Policy
) -> list[Candidate]:
    """Every model on every node's disk, or in its memory."""
    total = sum(demand.values()) or 1
    found = []
    for name in nodes:
        node = grid.nodes[name]
        for model, on_disk in sorted(node.installed.items()):
            rules = grid.models.get(model, NO_RULES)
            size_mb = footprint_mb(grid, node, on_disk, rules.num_ctx or policy.num_ctx, policy)
            load_ms = expected_load_ms(grid, node, model, on_disk, policy)
            resident, pinned = model in node.resident, name in rules.resident_on
            worth = load_ms * 1000 * demand.get(model, 0) // total // max(size_mb, 1)
            if worth or resident or pinned:
                found.append(Candidate(worth, name, model, size_mb, pinned, resident))
    return found


def rank(each: Candidate, copies: Mapping[str, int]) -> tuple[bool, int, str, str]:
    """The order of choosing: pins, then worth; names decide between equals."""
    worth = worth_now(each, copies)
    if each.resident:
        worth = worth * STAY_NUM // STAY_DEN + 1
    return each.pinned, worth, each.node, each.model


def worth_now(each: Candidate, copies: Mapping[str, int]) -> int:
    """µs per MB, given how many copies have a place already."""
    return each.worth // SECOND_COPY ** min(copies.get(each.model, 0), 16)


def chosen(each: Candidate, worth: int, copy: int) -> Placement:
    """The line of a model that gets a place."""
    if each.pinned:
        why = "pinned here by streams.toml"
    else:
        why = f"saves {worth} µs of loading per MB and request"
        why += f", copy {copy} of it" if copy > 1 else ""
    action = "keep" if each.resident else "load"
    return Placement(each.node, each.model, action, each.size_mb, worth, why)


def work_of(grid: Grid, placements: tuple[Placement, ...], policy: Policy) -> Iterator[ev.AnyEvent]:
    """The plan's next step on each node that is idle and well: one load, and what goes for it."""
    wanted = {(each.node, each.model) for each in placements if each.action != "leave"}
    busy: set[str] = set()
    for each in placements:
        node = grid.nodes[each.node]
        if each.action != "load" or each.node in busy or not is_idle(grid, node, each.model, policy):
            continue
        num_ctx = grid.models.get(each.model, NO_RULES).num_ctx or policy.num_ctx
        found = room(grid, node, each.model, num_ctx, policy)
        if (
            found.short_mb
            or found.busy
            or found.wait_ms
            or any((each.node, m) in wanted for m in found.evicts)
        ):
            continue
        busy.add(each.node)
        for model in found.evicts:
            yield ev.UnloadOrdered(each.node, model, "room")
        num_thread = grid.models.get(each.model, NO_RULES).num_thread
        yield ev.LoadOrdered(
            node=each.node,
            model=each.model,
            num_ctx=num_ctx,
            runner=f"num_thread={num_thread}" if num_thread else "",
            load_ms=expected_load_ms(grid, node, each.model, node.installed[each.model], policy),
            reserve_mb=found.need_mb,
        )


def is_idle(grid: Grid, node: Node, model: str, policy: Policy) -> bool:
    """Whether the node may load this model now: fresh, fit, cool, without work for a while, and not one
    that failed to load there of late."""
    if node.heard_ms is None or grid.at_ms - node.heard_ms > policy.stale_ms or node.holdings:
        return False
    if trouble(grid, node, policy) is not None or node.opened_ms is not None:
        return False
    if node.forecast_mc > policy.temp_return_mc:
        return False
    failed_ms = node.load_failed_ms.get(model)
    if failed_ms is not None and grid.at_ms - failed_ms < policy.load_again_ms:
        return False
    return grid.at_ms - max(node.used_ms.values(), default=0) >= policy.plan_idle_ms
