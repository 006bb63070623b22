"""route(): filter, cost, pick. Pure: the grid and the policy go in, a decision comes out.

Each node gets a verdict: the first filter that holds it back, or the expected time to the finished
answer in ms, as a sum of terms. The least (cost, name) wins. If the winner cannot begin at once, the
request waits for it: the time until then is part of its cost, so whoever waits does so because it is
faster.

Filters, in order: role, silent, stale, inventory_unknown, not_installed, tier, too_large, two_agents,
no_temperature, hot, ram, breaker, memory. Those on temperature, RAM and staleness never fail open.
"""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.estimates import UNMEASURED, answer_tokens, demand_now, expected_load_ms, pace
from orion_streams.decider.memory import capacity_mb, footprint_mb, is_going, room, weights
from orion_streams.model.events import Verdict
from orion_streams.model.policy import ROBOT, Policy
from orion_streams.model.state import Grid, Holding, Installed, Node, Request, Resident


class Route(Struct, frozen=True):
    """Send it to this node now; what its verdict evicts goes first."""

    node: str
    verdicts: tuple[Verdict, ...]


class Wait(Struct, frozen=True):
    """Keep it: `busy`, the best `node` cannot begin yet; `no_node`, every node is filtered."""

    kind: str
    node: str
    verdicts: tuple[Verdict, ...]


class Reject(Struct, frozen=True):
    """No node will ever take it. `code` as in the contract."""

    code: str
    verdicts: tuple[Verdict, ...]


Decision = Route | Wait | Reject


class Ahead(Struct):
    """Waiting work that a node does first: of models that are there (`warm_ms`), of others, which load
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


def route(grid: Grid, request: Request, policy: Policy, waiting: Waiting | None = None) -> Decision:
    """Where the request goes, in the light of what is served before it."""
    waiting = waiting or Waiting()
    nodes, tokens = grid.nodes, answer_tokens(grid, request, policy)
    verdicts = tuple([judge(grid, nodes[name], request, tokens, policy, waiting) for name in sorted(nodes)])
    best: Verdict | None = None
    for verdict in verdicts:  # in the order of names, so the first of equals wins
        if not verdict.filter and (best is None or verdict.cost_ms < best.cost_ms):
            best = verdict
    if best is None:
        return unplaceable(verdicts)
    if best.free_slots > 0:
        return Route(best.node, verdicts)
    return Wait("busy", best.node, verdicts)


def unplaceable(verdicts: tuple[Verdict, ...]) -> Decision:
    """Nobody is eligible: hopeless only if the known facts of every inference node say so for ever."""
    filters = {verdict.filter for verdict in verdicts}
    if verdicts and filters <= {"role", "not_installed", "tier", "too_large"}:
        return Reject("model_too_large" if "too_large" in filters else "unknown_model", verdicts)
    return Wait("no_node", "", verdicts)


def judge(  # noqa: PLR0912 - the hot path: each call that it does without is a twentieth of a route
    grid: Grid, node: Node, request: Request, tokens: int, policy: Policy, waiting: Waiting
) -> Verdict:
    """One node's verdict on a request with an expected answer of so many tokens: the filter that holds the
    node back, or the expected ms to the finished answer. What few requests need stands behind an `if`."""
    rules, model, at_ms = node.rules, request.model, grid.at_ms
    name, heard_ms, temp_mc, on_disk = rules.name, node.heard_ms, node.temp_mc, node.installed.get(model)
    if (
        on_disk is None
        or heard_ms is None
        or temp_mc is None
        or temp_mc > policy.temp_max_mc
        or node.backed_off
        or at_ms - heard_ms > policy.stale_ms
        or node.ram_used_mb * 1000 > policy.ram_max_permille * node.ram_total_mb
        or not node.inventory_known
        or not rules.inference
        or name == ROBOT
        or node.opened_ms is not None
        or node.two_agents_ms is not None
        or policy.spill_forbidden
    ):  # something may be wrong: find out what, in the order of the filters
        held_back = obstacle(grid, node, request, policy)
        if held_back is not None or on_disk is None or heard_ms is None:
            return held_back or Verdict(name, "not_installed")
    row = node.resident.get(model)
    warm = row is not None and row.digest == on_disk.digest and same_runner(row, request)
    if node.unload_ordered_ms or (not warm and node.resident):
        warm = finds_runner(grid, node, request, on_disk, policy)
    drain_ms, running, slots = 0, 0, rules.slots
    if node.holdings:
        drain_ms, running = drain(node, model, warm, at_ms, policy)
    if node.ramp is not None or node.opened_ms is not None or node.forecast_mc > policy.temp_max_mc:
        slots = open_slots(node, policy)
    if node.forecast_mc > policy.temp_max_mc:  # it begins nothing before it has stopped warming up
        drain_ms += policy.slope_smoothing_ms
    free_slots, load = slots + (policy.prefetch if node.opened_ms is None else 0) - running, NO_LOAD
    if waiting.ahead and name in waiting.ahead:
        ahead = waiting.ahead[name]
        drain_ms += ahead.warm_ms if warm else ahead.warm_ms + ahead.cold_ms
    speed = grid.speeds.get(f"{name} {model}", UNMEASURED)
    if not warm:
        load = load_on(grid, node, request, on_disk, speed.load_ms, policy, waiting)
        if load.short_mb:
            return too_tight(grid, node, request, on_disk, load, policy)
        drain_ms += load.wait_ms
        free_slots = 0 if load.later else free_slots
    prefill_us, decode_us = speed.prefill_us_per_token, speed.decode_us_per_token
    if not prefill_us or not decode_us:
        prefill_us, decode_us = pace(grid, node, model, on_disk, policy)
    prefill_ms = request.prompt_tokens * prefill_us // 1000
    decode_ms = tokens * decode_us // 1000
    cached_ms = heat_ms = spill_ms = retry_ms = late_ms = 0
    if request.session and warm and request.session in node.sessions.get(model, ()):
        cached_ms = prefill_ms * policy.session_permille // 1000
    if node.forecast_mc > policy.temp_return_mc:
        heat_ms = (prefill_ms - cached_ms + decode_ms) * derating(node, policy) // 1000
    if request.tier and request.tier not in rules.tiers:
        spill_ms = policy.spill_ms
    if request.failures:
        retry_ms = policy.retry_ms * failed_here(request, name)
    if at_ms - heard_ms > policy.fresh_ms:
        late_ms = at_ms - heard_ms - policy.fresh_ms
    cost_ms = (
        drain_ms + load.load_ms + load.evict_ms + prefill_ms - cached_ms + decode_ms
        + heat_ms + spill_ms + retry_ms + late_ms
    )  # fmt: skip
    return Verdict(
        name, "", 0, 0, cost_ms, drain_ms, load.load_ms, prefill_ms, decode_ms, spill_ms, retry_ms,
        free_slots, load.evict_ms, cached_ms, heat_ms, late_ms, load.reserve_mb, load.evicts,
    )  # fmt: skip


class Load(Struct, frozen=True):
    """What a request pays for a model that is not in memory: the load, and what that costs others. `later`:
    it cannot begin at once; `short_mb` > 0: there is no room for it."""

    load_ms: int = 0
    evict_ms: int = 0
    reserve_mb: int = 0
    evicts: tuple[str, ...] = ()
    wait_ms: int = 0
    later: bool = False
    need_mb: int = 0
    short_mb: int = 0


NO_LOAD = Load()
BEHIND = Load(later=True)


def load_on(
    grid: Grid,
    node: Node,
    request: Request,
    on_disk: Installed,
    measured_ms: int,
    policy: Policy,
    waiting: Waiting,
) -> Load:
    """The load that the request needs on this node: none if one is on its way for others."""
    model = request.model
    if node.holdings and is_coming(node, request):
        return NO_LOAD
    if waiting.ahead and model in waiting.ahead.get(node.rules.name, NOTHING_AHEAD).coming:
        return BEHIND
    found = room(grid, node, model, request.num_ctx or policy.num_ctx, policy, waiting.models)
    if found.short_mb:
        return Load(need_mb=found.need_mb, short_mb=found.short_mb)
    load_ms = measured_ms or on_disk.size_mb * (node.rules.load_us_per_mb or policy.load_us_per_mb) // 1000
    elsewhere = waiting.copies.get(model)
    if elsewhere is None:
        elsewhere = copies(grid, model, policy, waiting)
    evict_ms = load_ms * policy.copy_loads if elsewhere else 0
    if not (found.evicts or found.busy):
        return Load(load_ms, evict_ms, found.need_mb)
    for each in found.evicts:
        evict_ms += loss_ms(grid, node, each, policy, waiting)
    later = found.busy or found.wait_ms > 0
    return Load(load_ms, evict_ms, found.need_mb, found.evicts, found.wait_ms, later)


def same_runner(row: Resident, request: Request) -> bool:
    """Whether this runner serves the request as it is; another context length or thread count reloads."""
    if row.num_ctx == request.num_ctx:
        return row.runner == request.runner
    return not request.num_ctx or (not row.num_ctx and row.context_length in (0, request.num_ctx))


def finds_runner(grid: Grid, node: Node, request: Request, on_disk: Installed, policy: Policy) -> bool:
    """Whether a runner in memory serves the request, maybe under another name of the same weights, that
    was not told to go."""
    return any(
        row.digest == on_disk.digest
        and same_runner(row, request)
        and not is_going(grid, node, name, policy)
        for name, row in node.resident.items()
    )


def drain(node: Node, model: str, warm: bool, at_ms: int, policy: Policy) -> tuple[int, int]:
    """Expected ms until what the node holds is done, and how many runs that is. An ordered load of another
    model does not keep a warm one waiting."""
    total_ms = running = 0
    for held in node.holdings.values():
        if held.request:
            running += 1
        elif warm and held.model != model:
            continue
        total_ms += remaining_ms(held, at_ms, policy) if held.started else held.run_ms
    return total_ms // node.rules.slots, running


def is_coming(node: Node, request: Request) -> bool:
    """Whether a run that the node holds, or an ordered load, brings the runner that the request needs."""
    return any(
        weights(node, held.model) == weights(node, request.model)
        and held.num_ctx == request.num_ctx
        and held.runner == request.runner
        for held in node.holdings.values()
    )


def remaining_ms(held: Holding, at_ms: int, policy: Policy) -> int:
    """What is left of a run that has started. One that takes longer than expected is not about to end for
    that: a share of what was expected always remains, and as much as it is overdue."""
    elapsed_ms = at_ms - held.since_ms
    left_ms = held.run_ms - elapsed_ms
    if not held.request:
        return max(left_ms, 0)
    least_ms = held.run_ms * policy.residual_permille // 1000
    return max(left_ms, least_ms, -left_ms)


def open_slots(node: Node, policy: Policy) -> int:
    """Runs that the node may hold: none more while it is about to pass the temperature mark, one while its
    breaker probes, one more with each answer after that, else all its slots."""
    slots = node.rules.slots
    if node.forecast_mc > policy.temp_max_mc:
        return 0
    if node.opened_ms is not None:
        return 1
    return slots if node.ramp is None else min(slots, 1 + node.ramp)


def derating(node: Node, policy: Policy) -> int:
    """How much slower work counts on a node that nears the mark, in thousandths: 0 at the lower mark,
    `derate_permille` where it is, or will soon be, at the upper one."""
    span_mc = policy.temp_max_mc - policy.temp_return_mc
    above_mc = min(node.forecast_mc, policy.temp_max_mc) - policy.temp_return_mc
    return policy.derate_permille * max(above_mc, 0) // span_mc


def loss_ms(grid: Grid, node: Node, model: str, policy: Policy, waiting: Waiting) -> int:
    """What others lose when the model goes: a load for each request that is expected within the horizon,
    for one at least if any waits, and half of that if another node keeps a copy."""
    on_disk = node.installed.get(model)
    if on_disk is None:
        return 0
    window_ms = max(min(policy.demand_half_ms * 1443 // 1000, grid.at_ms), 1)  # of an average: half / ln 2
    expected_milli = demand_now(grid, model, policy) * policy.evict_horizon_ms // window_ms
    needed_milli = max(expected_milli, 1000 if model in waiting.models else 0)
    lost_ms = expected_load_ms(grid, node, model, on_disk, policy) * needed_milli // 1000
    return lost_ms // 2 if copies(grid, model, policy, waiting) > 1 else lost_ms


def copies(grid: Grid, model: str, policy: Policy, waiting: Waiting) -> int:
    """On how many nodes the model is in memory, or will be as soon as a load has ended. Counted once."""
    if model not in waiting.copies:
        waiting.copies[model] = sum(
            (model in node.resident or any(held.model == model for held in node.holdings.values()))
            and node.rules.takes_inference
            and node.inventory_known
            and is_heard(grid, node, policy)
            and trouble(grid, node, policy) is None
            for node in grid.nodes.values()
        )
    return waiting.copies[model]


def obstacle(grid: Grid, node: Node, request: Request, policy: Policy) -> Verdict | None:
    """The first filter that holds the node back, with the value that tripped it and its limit."""
    name, heard_ms = node.rules.name, node.heard_ms
    if not node.rules.takes_inference:
        return Verdict(name, "role")
    if heard_ms is None:
        return Verdict(name, "silent")
    age_ms = grid.at_ms - heard_ms
    if age_ms > policy.stale_ms:
        return Verdict(name, "stale", age_ms, policy.stale_ms)
    if not node.inventory_known:
        return Verdict(name, "inventory_unknown")
    installed = node.installed.get(request.model)
    if installed is None:
        return Verdict(name, "not_installed")
    if request.tier in policy.spill_forbidden and request.tier not in node.rules.tiers:
        return Verdict(name, "tier", request.tier)
    return oversized(grid, node, request, installed, policy) or trouble(grid, node, policy)


def oversized(
    grid: Grid, node: Node, request: Request, installed: Installed, policy: Policy
) -> Verdict | None:
    """A model that does not fit even if nothing else were there; one that is in memory shows it does."""
    if any(row.digest == installed.digest and same_runner(row, request) for row in node.resident.values()):
        return None
    need_mb = footprint_mb(grid, node, installed, request.num_ctx or policy.num_ctx, policy)
    if need_mb > capacity_mb(node, policy):
        return Verdict(node.rules.name, "too_large", need_mb, capacity_mb(node, policy))
    return None


def is_heard(grid: Grid, node: Node, policy: Policy) -> bool:
    """Whether the node was heard from of late."""
    return node.heard_ms is not None and grid.at_ms - node.heard_ms <= policy.stale_ms


def trouble(grid: Grid, node: Node, policy: Policy) -> Verdict | None:
    """What is wrong with the node itself, whatever is asked of it."""
    name, at_ms = node.rules.name, grid.at_ms
    if node.two_agents_ms is not None and at_ms - node.two_agents_ms <= policy.two_agents_ms:
        return Verdict(name, "two_agents")
    if node.temp_mc is None and node.rules.temperature_sensor:
        return Verdict(name, "no_temperature")
    temp_mc = node.temp_mc or 0
    if temp_mc > policy.temp_max_mc or "hot" in node.backed_off:
        limit = policy.temp_return_mc if "hot" in node.backed_off else policy.temp_max_mc
        return Verdict(name, "hot", temp_mc, limit)
    if node.ram_used_mb * 1000 > policy.ram_max_permille * node.ram_total_mb or "ram" in node.backed_off:
        limit = policy.ram_return_permille if "ram" in node.backed_off else policy.ram_max_permille
        return Verdict(name, "ram", ram_permille(node), limit)
    if node.opened_ms is not None and at_ms - node.opened_ms < node.open_ms:
        return Verdict(name, "breaker", at_ms - node.opened_ms, node.open_ms)
    return None


def too_tight(
    grid: Grid, node: Node, request: Request, installed: Installed, load: Load, policy: Policy
) -> Verdict:
    """A load that finds no room now, or never would."""
    never = oversized(grid, node, request, installed, policy)
    return never or Verdict(node.rules.name, "memory", load.need_mb, load.need_mb - load.short_mb)


def ram_permille(node: Node) -> int:
    """Used memory in thousandths of all, rounded up, so that "900.1" never reads as 900."""
    return -(-node.ram_used_mb * 1000 // node.ram_total_mb) if node.ram_total_mb else 0


def failed_here(request: Request, node: str) -> int:
    """How many attempts of this request failed on the node."""
    return sum(failure.node == node for failure in request.failures)
