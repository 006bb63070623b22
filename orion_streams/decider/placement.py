"""plan(): which models should live where, so that all memory of the house is used. Pure.

Greedy by what a MB saves: for each model on each node that has it on disk, the load that its next request
would cost, times how often it is asked for. A second copy saves less than the first. Pins come first; what
is in memory has a small advantage, so that two models of equal worth do not take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.estimates import demand_now, expected_speed
from orion_streams.decider.filters import node_filter
from orion_streams.decider.memory import (
    capacity_mb,
    default_num_ctx,
    footprint_mb,
    num_ctx_there,
    places,
    room,
    weights,
)
from orion_streams.model import events as ev
from orion_streams.model.marks import is_heard
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Grid, Installed, Node
from orion_streams.model.vocabulary import UnloadReason

COPY_MILLI = 4_000
"""Nothing more than a first copy of a model that was asked for less of late: requests in thousandths."""
SECOND_COPY = 2
"""Each further copy of a model is worth less by so many powers of two."""
GOING = ("leave", "unload", "missing")
STAY_NUM, STAY_DEN = 5, 4
"""What is in memory counts for a quarter more."""


class Placement(Struct, frozen=True):
    """A line of the plan. `action`: keep, load, unload (makes room for a load), leave (it may go, when its
    place is needed) or missing (pinned, and not on disk). `saved_us_per_mb`: expected load time that a MB
    of it saves, in µs per request of all models."""

    node: str
    model: str
    action: str
    size_mb: int
    saved_us_per_mb: int
    reason: str


class Candidate(Struct, frozen=True):
    """A model that could live on a node, or does, or is about to. `worth`: µs saved per MB, now."""

    worth: int
    node: str
    model: str
    size_mb: int
    pinned: bool
    resident: bool


def demand_of(grid: Grid) -> dict[str, int]:
    """Return the recent requests per model, in thousandths."""
    return {model: milli for model in grid.demand if (milli := demand_now(grid, model))}


def plan(grid: Grid, demand: Mapping[str, int]) -> tuple[Placement, ...]:
    """Return what should be in memory on each node and why, node by node, the most valuable first."""
    free_mb = {
        name: capacity_mb(node, grid.policy)
        for name, node in sorted(grid.nodes.items())
        if node.rules.takes_inference and is_heard(grid, node) and node.inventory_known
    }
    taken: dict[str, set[str]] = {name: set() for name in free_mb}
    copies: dict[str, int] = {}
    placed: list[Placement] = []
    left = candidates(grid, free_mb, demand)
    while left:
        best = min(left, key=lambda each: rank(each, copies, demand))
        left.remove(best)
        worth = worth_now(best, copies, demand)
        node = grid.nodes[best.node]
        runners = taken[best.node] | {weights(node, best.model)}
        has_room = best.size_mb <= free_mb[best.node] and len(runners) <= places(grid, node)
        if (worth or best.pinned) and has_room:
            free_mb[best.node] -= best.size_mb
            taken[best.node] = runners
            copies[best.model] = copies.get(best.model, 0) + 1
            placed.append(chosen(best, worth, copies[best.model]))
        elif best.resident:
            why = "others save more in its place" if worth else "asked for too seldom of late"
            placed.append(line_of(best, "leave", worth, why))
    rows = make_room(grid, placed)
    for name, model in missing_pins(grid):
        rows.append(
            Placement(name, model, "missing", 0, 0, f"pinned, and not on disk: ollama pull {model}")
        )
    return tuple(
        sorted(rows, key=lambda each: (each.node, each.action in GOING, -each.saved_us_per_mb, each.model))
    )


def missing_pins(grid: Grid) -> list[tuple[str, str]]:
    """List the nodes and models that `resident_on` names, and whose disk does not have them."""
    return [
        (name, model)
        for name, node in sorted(grid.nodes.items())
        if node.rules.takes_inference and node.inventory_known
        for model, rules in sorted(grid.models.items())
        if name in rules.resident_on and model not in node.installed
    ]


def make_room(grid: Grid, placed: list[Placement]) -> list[Placement]:
    """Return the lines, with those models marked that go for the next load on their node."""
    goes_for: dict[tuple[str, str], str] = {}
    for each in placed:
        if each.action == "load" and not any(node == each.node for node, _ in goes_for):
            node = grid.nodes[each.node]
            found = room(grid, node, each.model, num_ctx_there(node, default_num_ctx(grid, each.model)))
            goes_for |= dict.fromkeys(((each.node, model) for model in found.evicts), each.model)
    return [
        replace(each, action="unload", reason=f"makes room for {goes_for[each.node, each.model]}")
        if each.action == "leave" and (each.node, each.model) in goes_for
        else each
        for each in placed
    ]


def candidates(grid: Grid, nodes: Mapping[str, int], demand: Mapping[str, int]) -> list[Candidate]:
    """Return every model on disk or in memory. Wherever it is placed, it saves the quickest load."""
    total, load_ms = sum(demand.values()) or 1, quickest_loads(grid, nodes)
    contexts = {model: default_num_ctx(grid, model) for model in load_ms}
    found = []
    for name in nodes:
        node = grid.nodes[name]
        for model, on_disk in sorted(node.installed.items()):
            size_mb = footprint_mb(grid, node, on_disk, num_ctx_there(node, contexts[model]))
            pinned = name in grid.models.get(model, NO_RULES).resident_on
            resident = is_there(node, model, on_disk)
            worth = load_ms[model] * 1000 * demand.get(model, 0) // total // max(size_mb, 1)
            if (worth or resident or pinned) and node.keeps(model):
                found.append(Candidate(worth, name, model, size_mb, pinned=pinned, resident=resident))
    return found


def is_there(node: Node, model: str, on_disk: Installed) -> bool:
    """Whether the model is in memory, maybe under another name of the same weights, or about to be."""
    return any(name == model or row.digest == on_disk.digest for name, row in node.resident.items()) or any(
        held.model == model for held in node.assignments.values()
    )


def quickest_loads(grid: Grid, nodes: Mapping[str, int]) -> dict[str, int]:
    """Return the expected ms of a load, by model, on the node that loads it fastest."""
    quickest: dict[str, int] = {}
    for name in nodes:
        node = grid.nodes[name]
        for model, on_disk in node.installed.items():
            load_ms = expected_speed(grid, node, model, on_disk).load_ms
            quickest[model] = min(load_ms, quickest.get(model, load_ms))
    return quickest


def rank(
    each: Candidate, copies: Mapping[str, int], demand: Mapping[str, int]
) -> tuple[bool, int, str, str]:
    """Return the order of choosing: pins, then worth; names decide between equals."""
    worth = worth_now(each, copies, demand)
    if each.resident:
        worth = worth * STAY_NUM // STAY_DEN + 1
    return not each.pinned, -worth, each.node, each.model


def worth_now(each: Candidate, copies: Mapping[str, int], demand: Mapping[str, int]) -> int:
    """Return µs saved per MB, given how many copies have a place already."""
    further = copies.get(each.model, 0)
    if further and demand.get(each.model, 0) < COPY_MILLI:
        return 0
    return each.worth >> SECOND_COPY * min(further, 16)


def chosen(each: Candidate, worth: int, copy: int) -> Placement:
    """Return the line of a model that gets a place."""
    if each.pinned:
        why = "pinned here by streams.toml"
    else:
        why = f"saves {worth} µs of loading per MB and request"
        why += f", copy {copy} of it" if copy > 1 else ""
    return line_of(each, "keep" if each.resident else "load", worth, why)


def line_of(each: Candidate, action: str, worth: int, reason: str) -> Placement:
    """Return a line of the plan for a candidate."""
    return Placement(each.node, each.model, action, each.size_mb, saved_us_per_mb=worth, reason=reason)


def work_of(grid: Grid, placements: tuple[Placement, ...]) -> Iterator[ev.AnyEvent]:
    """Yield the plan's next step on each node that is idle and fit: one load, and what goes for it."""
    wanted = {(each.node, each.model) for each in placements if each.action not in GOING}
    busy: set[str] = set()
    for each in placements:
        node = grid.nodes[each.node]
        if each.action != "load" or each.node in busy or not may_load(grid, node, each.model):
            continue
        num_ctx = num_ctx_there(node, default_num_ctx(grid, each.model))
        found = room(grid, node, each.model, num_ctx)
        if (
            found.short_mb
            or found.crowd
            or found.busy
            or found.wait_ms
            or any((each.node, m) in wanted for m in found.evicts)
        ):
            continue
        busy.add(each.node)
        for model in found.evicts:
            yield ev.UnloadOrdered(each.node, model, UnloadReason.ROOM)
        yield ev.LoadOrdered(
            node=each.node,
            model=each.model,
            num_ctx=num_ctx,
            runner=grid.models.get(each.model, NO_RULES).runner,
            load_ms=expected_speed(grid, node, each.model, node.installed[each.model]).load_ms,
            reserve_mb=found.need_mb,
        )


def may_load(grid: Grid, node: Node, model: str) -> bool:
    """Whether the node may load this model now: idle, and it has not failed to load there of late."""
    failed_ms = node.load_failed_ms.get(model)
    if failed_ms is not None and grid.at_ms - failed_ms < grid.policy.load_again_ms:
        return False
    return is_idle(grid, node)


def is_idle(grid: Grid, node: Node) -> bool:
    """Whether the node may load anything now: heard from, fit, cool, and without work for a while."""
    if node.assignments or not node.rules.takes_inference or not is_heard(grid, node):
        return False
    if node_filter(grid, node) is not None or node.opened_ms is not None:
        return False
    if node.forecast_mc > grid.policy.temp_return_mc:
        return False
    return grid.at_ms - max(node.used_ms.values(), default=0) >= grid.policy.plan_idle_ms
