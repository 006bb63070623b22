"""Filters: what keeps a node from a request. Each rule stands here once. Pure.

The first filter that holds is the verdict, with the value that tripped it and its limit. Those on
temperature, memory and staleness never fail open.
"""

from __future__ import annotations

from collections.abc import Callable

from orion_streams.decider.memory import capacity_mb, footprint_mb
from orion_streams.model import marks
from orion_streams.model.events import Verdict
from orion_streams.model.state import Grid, Node, Request
from orion_streams.model.vocabulary import Filter, Mark

Figures = tuple[int, int]
"""The value that tripped a filter, and its limit; 0 where a filter has none."""
NO_FIGURES: Figures = (0, 0)


def first_filter(grid: Grid, node: Node, request: Request) -> Verdict | None:
    """Return the first filter that keeps the node from the request, or None."""
    for name, check in REQUEST_FILTERS:
        figures = check(grid, node, request)
        if figures is not None:
            return Verdict(node=node.rules.name, filter=name, value=figures[0], limit=figures[1])
    return node_filter(grid, node)


def node_filter(grid: Grid, node: Node) -> Verdict | None:
    """Return the first filter of the node itself, whatever is asked of it, or None."""
    for name, check in NODE_FILTERS:
        figures = check(grid, node)
        if figures is not None:
            return Verdict(node=node.rules.name, filter=name, value=figures[0], limit=figures[1])
    return None


def no_inference(_grid: Grid, node: Node, _request: Request) -> Figures | None:
    """The robot, or a node with `inference = false`."""
    return None if node.rules.takes_inference else NO_FIGURES


def silent(_grid: Grid, node: Node, _request: Request) -> Figures | None:
    """No health entry ever came."""
    return NO_FIGURES if node.heard_ms is None else None


def stale(grid: Grid, node: Node, _request: Request) -> Figures | None:
    """The last health entry is older than `stale_ms`."""
    return None if is_heard(grid, node) else (grid.at_ms - (node.heard_ms or 0), grid.policy.stale_ms)


def inventory_unknown(_grid: Grid, node: Node, _request: Request) -> Figures | None:
    """The log does not know which models the node has."""
    return None if node.inventory_known else NO_FIGURES


def not_installed(_grid: Grid, node: Node, request: Request) -> Figures | None:
    """The model is not on the node's disk."""
    return None if request.model in node.installed else NO_FIGURES


def forbidden_tier(grid: Grid, node: Node, request: Request) -> Figures | None:
    """The request's tier may not spill, and the node does not have it."""
    if request.tier in grid.policy.spill_forbidden and request.tier not in node.rules.tiers:
        return request.tier, 0
    return None


def too_large(grid: Grid, node: Node, request: Request) -> Figures | None:
    """The model would not fit even alone. A runner in memory that serves the request shows that it does."""
    on_disk = node.installed[request.model]
    need_mb = footprint_mb(grid, node, on_disk, request.num_ctx or grid.policy.num_ctx)
    limit_mb = capacity_mb(node, grid.policy)
    if need_mb <= limit_mb or any(row.is_runner(on_disk, request) for row in node.resident.values()):
        return None
    return need_mb, limit_mb


def two_agents(grid: Grid, node: Node) -> Figures | None:
    """Two boots took turns in the node's health within `two_agents_ms`."""
    seen_ms = node.two_agents_ms
    return NO_FIGURES if seen_ms is not None and grid.at_ms - seen_ms <= grid.policy.two_agents_ms else None


def no_temperature(_grid: Grid, node: Node) -> Figures | None:
    """A node that has a sensor gives no reading."""
    return NO_FIGURES if node.temp_mc is None and node.rules.temperature_sensor else None


def hot(grid: Grid, node: Node) -> Figures | None:
    """Above the temperature mark, or backed off for it and not back yet."""
    policy = grid.policy
    if Mark.HOT in node.backed_off:
        return node.temp_mc or 0, policy.temp_return_mc
    return (node.temp_mc or 0, policy.temp_max_mc) if marks.is_hot(node.temp_mc, policy) else None


def full(grid: Grid, node: Node) -> Figures | None:
    """Above the memory mark, or backed off for it and not back yet."""
    policy = grid.policy
    if Mark.RAM in node.backed_off:
        return marks.ram_permille(node), policy.ram_return_permille
    if marks.is_full(node, policy):
        return marks.ram_permille(node), policy.ram_max_permille
    return None


def breaker_open(grid: Grid, node: Node) -> Figures | None:
    """The breaker is open and its time is not over."""
    if node.opened_ms is None:
        return None
    open_ms = grid.at_ms - node.opened_ms
    return (open_ms, node.open_ms) if open_ms < node.open_ms else None


REQUEST_FILTERS: tuple[tuple[Filter, Callable[[Grid, Node, Request], Figures | None]], ...] = (
    (Filter.ROLE, no_inference),
    (Filter.SILENT, silent),
    (Filter.STALE, stale),
    (Filter.INVENTORY_UNKNOWN, inventory_unknown),
    (Filter.NOT_INSTALLED, not_installed),
    (Filter.TIER, forbidden_tier),
    (Filter.TOO_LARGE, too_large),
)
NODE_FILTERS: tuple[tuple[Filter, Callable[[Grid, Node], Figures | None]], ...] = (
    (Filter.TWO_AGENTS, two_agents),
    (Filter.NO_TEMPERATURE, no_temperature),
    (Filter.HOT, hot),
    (Filter.RAM, full),
    (Filter.BREAKER, breaker_open),
)
NEVER = frozenset({Filter.ROLE, Filter.NOT_INSTALLED, Filter.TIER, Filter.TOO_LARGE})
"""Filters that no time lifts."""


def is_heard(grid: Grid, node: Node) -> bool:
    """Whether the node's last health entry is at most `stale_ms` old."""
    return node.heard_ms is not None and grid.at_ms - node.heard_ms <= grid.policy.stale_ms
