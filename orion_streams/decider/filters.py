"""Filters: what keeps a node from a request. Each rule stands here once. Pure.

The first filter that holds is the verdict, with the value that tripped it and its limit. Those on
temperature, memory and staleness never fail open.
"""

from __future__ import annotations

from orion_streams.decider.memory import capacity_mb, footprint_mb, serves, wanted_num_ctx
from orion_streams.model.marks import (
    has_no_temperature,
    is_heard,
    is_past,
    is_stuck,
    ram_permille,
    stuck_limit_ms,
)
from orion_streams.model.quiet_hours import quiet_now
from orion_streams.model.state import Grid, Node, Request
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Blame, BreakerState, Code, Filter, Mark
from orion_streams.projections import breaker

NEVER = frozenset({Filter.ROLE, Filter.NOT_INSTALLED, Filter.INCAPABLE, Filter.TIER, Filter.TOO_LARGE})
"""Filters that no time lifts."""


def first_filter(grid: Grid, node: Node, request: Request) -> Verdict | None:
    """Return the first filter that keeps the node from the request, or None."""
    policy, name = grid.policy, node.rules.name
    if not node.rules.takes_inference:
        return Verdict(node=name, filter=Filter.ROLE)
    if not is_heard(grid, node):
        return at_rest(grid, node) or unheard(grid, node)
    if not node.inventory_known:
        return Verdict(node=name, filter=Filter.INVENTORY_UNKNOWN)
    if not node.keeps(request.model):
        return Verdict(node=name, filter=Filter.NOT_INSTALLED)
    if request.needs and missing_capabilities(grid, node, request):
        return Verdict(node=name, filter=Filter.INCAPABLE)
    if request.tier in policy.spill_forbidden and request.tier not in node.rules.tiers:
        return Verdict(node=name, filter=Filter.TIER, value=request.tier)
    own = too_large(grid, node, request) or node_filter(grid, node)
    return own or (paused(grid, name, request) if request.failures else None)


NO_PAUSE = (Code.OLLAMA_UNREACHABLE, Code.AGENT_LEAVING, Code.CANCELLED, *AbandonReason)
"""Ends of attempts after which other filters look after the node: its Ollama is away, its agent leaves, or
the router gave the attempt up."""


def paused(grid: Grid, name: str, request: Request) -> Verdict | None:
    """Return the verdict on a node where the request failed, by no fault of its own, so short a time ago
    that it is not tried there again yet: each time the pause is twice as long."""
    failed_ms = [
        each.at_ms
        for each in request.failures
        if each.node == name and each.blame != Blame.REQUEST and each.code not in NO_PAUSE
    ]
    if not failed_ms:
        return None
    policy, passed_ms = grid.policy, grid.at_ms - failed_ms[-1]
    pause_ms = min(policy.retry_pause_ms << min(len(failed_ms) - 1, 16), policy.retry_pause_max_ms)
    if passed_ms >= pause_ms:
        return None
    return Verdict(node=name, filter=Filter.PAUSED, value=passed_ms, limit=pause_ms)


def missing_capabilities(grid: Grid, node: Node, request: Request) -> list[str]:
    """Return what the request needs and the model, as this node has it, cannot; nothing if that is not
    known."""
    row = grid.described.get(node.installed[request.model].digest)
    known = row.capabilities if row is not None else ()
    return [each for each in request.needs if each not in known] if known else []


def too_large(grid: Grid, node: Node, request: Request) -> Verdict | None:
    """Return the verdict on a model that would not fit even alone. A runner in memory that serves the
    request shows that it fits."""
    on_disk = node.installed[request.model]
    num_ctx = wanted_num_ctx(grid, node, request)
    need_mb = footprint_mb(grid, node, on_disk, num_ctx)
    limit_mb = capacity_mb(node, grid.policy)
    if need_mb <= limit_mb or any(
        row.digest == on_disk.digest and serves(grid, row, num_ctx, request.runner)
        for row in node.resident.values()
    ):
        return None
    return Verdict(node=node.rules.name, filter=Filter.TOO_LARGE, value=need_mb, limit=limit_mb)


def at_rest(grid: Grid, node: Node) -> Verdict | None:
    """Return the verdict on a node that an operator drained: for how long it has rested, of which time
    (0: until somebody ends it)."""
    rest = node.rest
    if rest is None:
        return None
    rested_ms = grid.at_ms - rest.since_ms
    return Verdict(node=node.rules.name, filter=Filter.DRAINED, value=rested_ms, limit=rest.for_ms)


def in_quiet_hours(grid: Grid, node: Node) -> Verdict | None:
    """Return the verdict on a node in its quiet hours: the minute of the day, and that of their end."""
    found = quiet_now(grid, node)
    if found is None:
        return None
    return Verdict(node=node.rules.name, filter=Filter.QUIET, value=found[0], limit=found[1])


def unheard(grid: Grid, node: Node) -> Verdict:
    """Return the verdict on a node that is not heard from: it never was, it has left, or not of late."""
    if node.heard_ms is None:
        return Verdict(node=node.rules.name, filter=Filter.SILENT)
    if node.left:
        return Verdict(node=node.rules.name, filter=Filter.LEFT)
    age_ms = grid.at_ms - node.heard_ms
    return Verdict(node=node.rules.name, filter=Filter.STALE, value=age_ms, limit=grid.policy.stale_ms)


def node_filter(grid: Grid, node: Node) -> Verdict | None:
    """Return the first filter of the node itself, whatever is asked of it, or None."""
    policy, name = grid.policy, node.rules.name
    rest = at_rest(grid, node) or in_quiet_hours(grid, node)
    if rest is not None:
        return rest
    if node.leaving:
        return Verdict(node=name, filter=Filter.LEAVING)
    if node.two_agents_ms is not None and grid.at_ms - node.two_agents_ms <= policy.two_agents_ms:
        return Verdict(node=name, filter=Filter.TWO_AGENTS)
    if has_no_temperature(node):
        return Verdict(node=name, filter=Filter.NO_TEMPERATURE)
    if node.temp_mc is not None and is_stuck(node, policy):
        limit_ms = stuck_limit_ms(node.temp_mc, policy)
        return Verdict(node=name, filter=Filter.STUCK_SENSOR, value=node.still_ms, limit=limit_ms)
    if node.backed_off or is_past(node, Mark.HOT, policy) or is_past(node, Mark.RAM, policy):
        return unsafe(grid, node)
    if node.opened_ms is not None and breaker.state_of(grid, node) == BreakerState.OPEN:
        open_ms = grid.at_ms - node.opened_ms
        return Verdict(node=name, filter=Filter.BREAKER, value=open_ms, limit=node.open_ms)
    return None


def unsafe(grid: Grid, node: Node) -> Verdict:
    """Return the verdict on a node that is above a mark, or backed off for one and not back yet: then
    the lower mark is its limit."""
    policy, name = grid.policy, node.rules.name
    if is_past(node, Mark.HOT, policy):
        limit_mc = policy.temp_return_mc if Mark.HOT in node.backed_off else policy.temp_max_mc
        return Verdict(node=name, filter=Filter.HOT, value=node.temp_mc or 0, limit=limit_mc)
    permille = policy.ram_return_permille if Mark.RAM in node.backed_off else policy.ram_max_permille
    return Verdict(node=name, filter=Filter.RAM, value=ram_permille(node), limit=permille)
