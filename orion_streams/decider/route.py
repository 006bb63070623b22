"""route(): filter, cost, pick. Pure: the grid goes in, a decision comes out.

Each node gets a verdict: the first filter that keeps it from the request (`filters`), or the expected
time to the finished answer in ms, as a sum of terms. The least (cost, name) wins. If the winner cannot
begin at once, the request waits for it: the time until then is part of its cost, so a request waits only
where that is faster.
"""

from __future__ import annotations

from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.estimates import answer_tokens, demand_now, expected_speed
from orion_streams.decider.filters import NEVER, first_filter, node_filter
from orion_streams.decider.memory import (
    default_num_ctx,
    places,
    room,
    serves,
    unload_pending,
    wanted_num_ctx,
    weights,
)
from orion_streams.model.marks import is_heard
from orion_streams.model.state import Assignment, Grid, Installed, Node, Request, Resident, Run
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Code, Filter, WaitKind

MOVED = (Code.AGENT_LEAVING, AbandonReason.LEFT, AbandonReason.DRAINED)
"""Ends of attempts that say nothing against node or request: the node was left on purpose."""


class Route(Struct, frozen=True):
    """Send it to this node now; what its verdict evicts goes first."""

    node: str
    verdicts: tuple[Verdict, ...]


class Wait(Struct, frozen=True):
    """Keep it: `busy`, the best `node` cannot begin yet; else no node takes it, and `kind` says why."""

    kind: WaitKind
    node: str
    verdicts: tuple[Verdict, ...]


class Reject(Struct, frozen=True):
    """No node will ever take it. `code` as in the contract."""

    code: Code
    verdicts: tuple[Verdict, ...]


Decision = Route | Wait | Reject


class Ahead(Struct):
    """Queued work that a node does first: of models that are there (`warm_ms`), of others, which load
    (`cold_ms`), and the models that it will have loaded by then."""

    warm_ms: int = 0
    cold_ms: int = 0
    coming: tuple[str, ...] = ()


NOTHING_AHEAD = Ahead()


class Waiting(Struct):
    """What waits in the grid beside the request: work ahead by node, and how many wait for a model.
    `copies` remembers on how many nodes a model is, or is about to be, in memory."""

    ahead: dict[str, Ahead] = {}
    models: dict[str, int] = {}
    copies: dict[str, int] = {}


def route(grid: Grid, request: Request, waiting: Waiting | None = None) -> Decision:
    """Return where the request goes, in the light of what is served before it."""
    if not request.num_ctx:  # of an older log: look once, not on each node
        request = replace(request, num_ctx=default_num_ctx(grid, request.model))
    waiting, tokens = waiting or Waiting(), answer_tokens(grid, request)
    verdicts = [
        first_filter(grid, node, request) or estimate(grid, node, request, tokens, waiting)
        for node in [grid.nodes[name] for name in sorted(grid.nodes)]
    ]
    decision = pick(tuple(verdicts))
    if isinstance(decision, Wait) and has_node_but_for_quiet(grid, request, decision):
        return Wait(WaitKind.QUIET, "", decision.verdicts)
    return decision


def has_node_but_for_quiet(grid: Grid, request: Request, decision: Wait) -> bool:
    """Whether quiet hours alone are in the way: no node takes the request, and without them one would."""
    if decision.node or all(each.filter != Filter.QUIET for each in decision.verdicts):
        return False
    found = route(replace(grid, nodes={name: awake(node) for name, node in grid.nodes.items()}), request)
    return isinstance(found, Route) or (isinstance(found, Wait) and bool(found.node))


def awake(node: Node) -> Node:
    """Return the node as it is without quiet hours."""
    return replace(node, rules=replace(node.rules, quiet="")) if node.rules.quiet else node


def pick(verdicts: tuple[Verdict, ...]) -> Decision:
    """Return the decision for verdicts in the order of names: the least cost wins, the first of equals."""
    eligible = [verdict for verdict in verdicts if not verdict.filter]
    if not eligible:
        return unplaceable(verdicts)
    best = min(eligible, key=attrgetter("cost_ms"))
    if best.free_slots > 0:
        return Route(best.node, verdicts)
    return Wait(WaitKind.BUSY, best.node, verdicts)


CODE_FOR = ((Filter.TOO_LARGE, Code.MODEL_TOO_LARGE), (Filter.INCAPABLE, Code.INCAPABLE))


def unplaceable(verdicts: tuple[Verdict, ...]) -> Decision:
    """Decide when every node is filtered: reject only if known facts say so for ever."""
    filters = {verdict.filter for verdict in verdicts}
    if verdicts and filters <= NEVER:
        return Reject(
            next((code for each, code in CODE_FOR if each in filters), Code.UNKNOWN_MODEL), verdicts
        )
    is_drained = Filter.DRAINED in filters and filters <= NEVER | {Filter.DRAINED, Filter.QUIET}
    return Wait(WaitKind.DRAINED if is_drained else WaitKind.NO_NODE, "", verdicts)


def estimate(grid: Grid, node: Node, request: Request, tokens: int, waiting: Waiting) -> Verdict:
    """Return the verdict of a node that no filter keeps from the request: the expected ms to the
    finished answer of `tokens` tokens, or the filter `memory` where the load that it needs finds no
    room."""
    name, policy, on_disk = node.rules.name, grid.policy, node.installed[request.model]
    warm = runner_for(grid, node, request, on_disk) is not None
    speed = expected_speed(grid, node, request.model, on_disk)
    load = NO_LOAD if warm else load_for(grid, node, request, speed.load_ms, waiting)
    if load.crowd:
        limit = places(grid, node)
        return Verdict(node=name, filter=Filter.PLACES, value=limit + load.crowd, limit=limit)
    if load.short_mb:
        need_mb = load.need_mb
        return Verdict(node=name, filter=Filter.MEMORY, value=need_mb, limit=need_mb - load.short_mb)
    prefill_ms = request.prompt_tokens * speed.prefill_us_per_token // 1000
    decode_ms = tokens * speed.decode_us_per_token // 1000
    cached_ms = prefill_ms * policy.session_permille // 1000 if warm and is_cached(node, request) else 0
    assigned_ms, runs = drain(grid, node, request.model, warm)
    drain_ms = load.wait_ms + assigned_ms + queued_ms(node, waiting, warm)
    if warms_up(grid, node):
        drain_ms += policy.slope_smoothing_ms
    heat_ms = (prefill_ms - cached_ms + decode_ms) * derating_permille(grid, node) // 1000
    spill_ms = policy.spill_ms if request.tier and request.tier not in node.rules.tiers else 0
    retry_ms = policy.retry_ms * failed_here(request, name) if request.failures else 0
    prefetch = policy.prefetch if node.opened_ms is None else 0  # a probe is one run
    age_ms = grid.at_ms - (node.heard_ms or 0)
    late_ms = age_ms - policy.fresh_ms if age_ms > policy.fresh_ms else 0
    return Verdict(
        node=name,
        cost_ms=drain_ms + load.load_ms + load.evict_ms + prefill_ms - cached_ms + decode_ms
        + heat_ms + spill_ms + retry_ms + late_ms,
        drain_ms=drain_ms,
        load_ms=load.load_ms,
        prefill_ms=prefill_ms,
        decode_ms=decode_ms,
        spill_ms=spill_ms,
        retry_ms=retry_ms,
        free_slots=0 if load.later else open_slots(grid, node) + prefetch - runs,
        evict_ms=load.evict_ms,
        cached_ms=cached_ms,
        heat_ms=heat_ms,
        late_ms=late_ms,
        reserve_mb=load.need_mb,
        evicts=load.evicts,
    )  # fmt: skip


class LoadCost(Struct, frozen=True, kw_only=True, gc=False):
    """What a request pays for a model that is not in memory: the load, and what that costs others. `later`:
    it cannot begin at once; `short_mb`, `crowd` > 0: there is no room, or no place, for it."""

    load_ms: int = 0
    evict_ms: int = 0
    need_mb: int = 0
    evicts: tuple[str, ...] = ()
    wait_ms: int = 0
    later: bool = False
    short_mb: int = 0
    crowd: int = 0


NO_LOAD = LoadCost()
BEHIND_A_LOAD = LoadCost(later=True)


def load_for(grid: Grid, node: Node, request: Request, load_ms: int, waiting: Waiting) -> LoadCost:
    """Return what the load of `load_ms` costs that the request needs on this node; nothing if one is on its
    way for others. It costs others `copy_loads` loads where it makes a further copy, and what each eviction
    loses."""
    model = request.model
    if runner_to_come(grid, node, request) is not None:
        return NO_LOAD
    if model in waiting.ahead.get(node.rules.name, NOTHING_AHEAD).coming:
        return BEHIND_A_LOAD
    found = room(grid, node, model, wanted_num_ctx(grid, node, request), waiting.models)
    if found.short_mb or found.crowd:
        return LoadCost(need_mb=found.need_mb, short_mb=found.short_mb, crowd=found.crowd)
    lost_ms = load_ms * grid.policy.copy_loads if copies(grid, model, waiting) else 0
    for each in found.evicts:
        lost_ms += loss_ms(grid, node, each, waiting)
    return LoadCost(
        load_ms=load_ms,
        evict_ms=lost_ms,
        need_mb=found.need_mb,
        evicts=found.evicts,
        wait_ms=found.wait_ms,
        later=found.busy or found.wait_ms > 0,
    )


def runner_for(grid: Grid, node: Node, request: Request, on_disk: Installed) -> Resident | None:
    """Return a runner in memory, maybe under another name, that serves the request and stays."""
    num_ctx = wanted_num_ctx(grid, node, request)
    for name, row in node.resident.items():
        if (
            row.digest == on_disk.digest
            and serves(grid, row, num_ctx, request.runner)
            and not unload_pending(grid, node, name)
        ):
            return row
    return None


def runner_to_come(grid: Grid, node: Node, request: Request) -> Assignment | None:
    """Return an assignment of the node that brings, or keeps, the runner that the request needs."""
    num_ctx = wanted_num_ctx(grid, node, request)
    for held in node.assignments.values():
        larger = held.num_ctx > num_ctx and grid.policy.num_ctx_reuse == "larger"
        same_options = held.runner == request.runner and (held.num_ctx == num_ctx or larger)
        if same_options and weights(node, held.model) == weights(node, request.model):
            return held
    return None


def num_ctx_on(grid: Grid, node: Node, request: Request) -> int:
    """Return the context that the request runs with on the node: at least what it needs, and as much as
    the runner has that is there, or about to be, so that nothing is loaded anew."""
    wanted = wanted_num_ctx(grid, node, request)
    row = runner_for(grid, node, request, node.installed[request.model])
    if row is not None:
        return row.context or wanted
    held = runner_to_come(grid, node, request)
    return (held.num_ctx if held is not None else 0) or wanted


def is_cached(node: Node, request: Request) -> bool:
    """Whether a slot of the node holds the prefix of the request's session."""
    return bool(request.session) and request.session in node.sessions.get(request.model, ())


def drain(grid: Grid, node: Node, model: str, warm: bool) -> tuple[int, int]:
    """Return the expected ms until what the node is assigned is done, and how many runs that is. An ordered
    load of another model does not keep a warm one waiting."""
    total_ms = runs = 0
    for held in node.assignments.values():
        is_run = isinstance(held, Run)
        runs += is_run
        if is_run or not warm or held.model == model:
            total_ms += remaining_ms(grid, held)
    return total_ms // node.rules.slots, runs


def queued_ms(node: Node, waiting: Waiting, warm: bool) -> int:
    """Return the queued work that goes first on the node; a warm model runs before those that load."""
    ahead = waiting.ahead.get(node.rules.name, NOTHING_AHEAD)
    return ahead.warm_ms if warm else ahead.warm_ms + ahead.cold_ms


def remaining_ms(grid: Grid, held: Assignment) -> int:
    """Return what is left of an assignment. A started run that takes longer than expected is not about
    to end for that: a share of what was expected always remains, and as much as it is overdue."""
    if isinstance(held, Run) and not held.started:
        return held.run_ms
    left_ms = held.since_ms + held.run_ms - grid.at_ms
    if not isinstance(held, Run):
        return max(left_ms, 0)
    return max(left_ms, held.run_ms * grid.policy.residual_permille // 1000, -left_ms)


def open_slots(grid: Grid, node: Node) -> int:
    """Return how many runs the node may hold: none more while it is about to pass the temperature mark,
    one while its breaker probes, one more with each answer after that, else all its slots."""
    slots = node.rules.slots
    if warms_up(grid, node):
        return 0
    if node.opened_ms is not None:
        return 1
    return slots if node.ramp is None else min(slots, 1 + node.ramp)


def warms_up(grid: Grid, node: Node) -> bool:
    """Whether the node is about to pass the temperature mark: it begins nothing before that is over."""
    return node.forecast_mc > grid.policy.temp_max_mc


def running(node: Node) -> int:
    """Return how many runs the node holds; ordered loads take no slot."""
    return len([held for held in node.assignments.values() if isinstance(held, Run)])


def derating_permille(grid: Grid, node: Node) -> int:
    """Return how much slower work counts on a node that nears the mark: 0 at the lower mark,
    `derate_permille` where it is, or will soon be, at the upper one."""
    policy = grid.policy
    if node.forecast_mc <= policy.temp_return_mc:
        return 0
    above_mc = min(node.forecast_mc, policy.temp_max_mc) - policy.temp_return_mc
    return policy.derate_permille * above_mc // (policy.temp_max_mc - policy.temp_return_mc)


def loss_ms(grid: Grid, node: Node, model: str, waiting: Waiting) -> int:
    """Return what others lose when the model goes: a load for each request that is expected within the
    horizon, for one at least if any waits, and half of that if another node keeps a copy."""
    on_disk, policy = node.installed.get(model), grid.policy
    if on_disk is None:
        return 0
    window_ms = max(min(policy.demand_half_ms * 1443 // 1000, grid.at_ms), 1)  # of an average: half / ln 2
    expected_milli = demand_now(grid, model) * policy.evict_horizon_ms // window_ms
    needed_milli = max(expected_milli, 1000 if model in waiting.models else 0)
    lost_ms = expected_speed(grid, node, model, on_disk).load_ms * needed_milli // 1000
    return lost_ms // 2 if copies(grid, model, waiting) > 1 else lost_ms


def copies(grid: Grid, model: str, waiting: Waiting) -> int:
    """Return on how many fit nodes the model is in memory, or will be after a load. Count once."""
    if model not in waiting.copies:
        waiting.copies[model] = sum(node.has(model) and is_fit(grid, node) for node in grid.nodes.values())
    return waiting.copies[model]


def is_fit(grid: Grid, node: Node) -> bool:
    """Whether the node takes requests now, whatever model they ask for."""
    return (
        node.rules.takes_inference
        and node.inventory_known
        and is_heard(grid, node)
        and node_filter(grid, node) is None
    )


def failed_here(request: Request, node: str) -> int:
    """Return how many attempts of this request failed on the node; those moved from it did not."""
    return sum(each.node == node and each.code not in MOVED for each in request.failures)
