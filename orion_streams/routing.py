"""route(): filter, cost, pick. Pure: the grid and the policy go in, a decision comes out.

Each node gets a verdict: the first filter that holds it back, or the expected time to the finished
answer in ms, as a sum of terms. The least (cost, name) wins. If the winner has no free slot, the request
waits for it: its queue is already part of its cost, so whoever waits does so because it is faster.

Filters, in order: role, silent, stale, inventory_unknown, not_installed, two_agents, no_temperature, hot,
ram. Those on temperature, RAM and staleness never fail open.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from orion_streams.config import Policy
from orion_streams.events import Verdict
from orion_streams.state import Grid, Holding, Node, Request, Speed


class Route(Struct, frozen=True):
    """Send it to this node now."""

    node: str
    verdicts: tuple[Verdict, ...]


class Wait(Struct, frozen=True):
    """Keep it: `busy`, the best `node` has no free slot; `no_node`, every node is filtered."""

    kind: str
    node: str
    verdicts: tuple[Verdict, ...]


class Reject(Struct, frozen=True):
    """No node will ever take it. `code` as in the contract."""

    code: str
    verdicts: tuple[Verdict, ...]


Decision = Route | Wait | Reject

_UNMEASURED = Speed()
_NOTHING_AHEAD: Mapping[str, int] = MappingProxyType({})


def route(
    grid: Grid, request: Request, policy: Policy, ahead: Mapping[str, int] = _NOTHING_AHEAD
) -> Decision:
    """Where the request goes. `ahead`: ms of waiting work per node that is served before it."""
    nodes, tokens = grid.nodes, answer_tokens(grid, request, policy)
    verdicts = tuple([judge(grid, nodes[name], request, tokens, policy, ahead) for name in sorted(nodes)])
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
    """Nobody is eligible: unknown only if every inference node's known inventory lacks the model."""
    if verdicts and all(verdict.filter in ("role", "not_installed") for verdict in verdicts):
        return Reject("unknown_model", verdicts)
    return Wait("no_node", "", verdicts)


def judge(
    grid: Grid,
    node: Node,
    request: Request,
    tokens: int,
    policy: Policy,
    ahead: Mapping[str, int],
) -> Verdict:
    """One node's verdict on a request with an expected answer of so many tokens."""
    rules = node.rules
    if not rules.inference:
        return Verdict(rules.name, "role")
    if node.heard_ms is None:
        return Verdict(rules.name, "silent")
    model = request.model
    installed = node.installed.get(model)
    age_ms = grid.at_ms - node.heard_ms
    temp_mc, used, total = node.temp_mc, node.ram_used_mb * 1000, node.ram_total_mb
    if (
        installed is None
        or age_ms > policy.stale_ms
        or node.backed_off
        or temp_mc is None
        or temp_mc > policy.temp_max_mc
        or used > policy.ram_max_permille * total
        or node.two_agents_ms is not None
        or not node.inventory_known
    ):
        held_back = obstacle(grid, node, request, policy)
        if held_back is not None:
            return held_back
    name = rules.name
    size_mb = installed.size_mb if installed is not None else 0
    speed = grid.speeds.get(f"{name} {model}", _UNMEASURED)
    drain_ms, loading = ahead.get(name, 0), False
    if node.holdings:
        held_ms, loading = drain(node.holdings, rules.slots, grid.at_ms, model)
        drain_ms += held_ms
    load_ms = 0
    if model not in node.resident and not loading:
        load_ms = speed.load_ms or size_mb * policy.load_us_per_mb // 1000
    prefill_us = speed.prefill_us_per_token or size_mb * policy.prefill_us_per_mb
    prefill_ms = request.prompt_tokens * prefill_us // 1000
    decode_us = speed.decode_us_per_token or size_mb * policy.decode_us_per_mb
    decode_ms = tokens * decode_us // 1000
    spill_ms = policy.spill_ms if request.tier and request.tier not in rules.tiers else 0
    retry_ms = policy.retry_ms * failed_here(request, name) if request.failures else 0
    cost_ms = drain_ms + load_ms + prefill_ms + decode_ms + spill_ms + retry_ms
    free_slots = rules.slots + policy.prefetch - len(node.holdings)
    return Verdict(
        name, "", 0, 0, cost_ms,
        drain_ms, load_ms, prefill_ms, decode_ms, spill_ms, retry_ms, free_slots,
    )  # fmt: skip


def answer_tokens(grid: Grid, request: Request, policy: Policy) -> int:
    """Expected answer length: the model's learned mean, at most what the request allows."""
    if request.kind == "embed":
        return 0
    mean = grid.lengths.get(request.model) or policy.prior_tokens
    return min(mean, request.num_predict) if request.num_predict else mean


def obstacle(grid: Grid, node: Node, request: Request, policy: Policy) -> Verdict | None:
    """The first filter that holds the node back, with the value that tripped it and its limit."""
    name, heard_ms = node.rules.name, node.heard_ms or 0
    age_ms = grid.at_ms - heard_ms
    if age_ms > policy.stale_ms:
        return Verdict(name, "stale", age_ms, policy.stale_ms)
    if not node.inventory_known:
        return Verdict(name, "inventory_unknown")
    if request.model not in node.installed:
        return Verdict(name, "not_installed")
    if node.two_agents_ms is not None and grid.at_ms - node.two_agents_ms <= policy.two_agents_ms:
        return Verdict(name, "two_agents")
    if node.temp_mc is None and node.rules.temperature_sensor:
        return Verdict(name, "no_temperature")
    temp_mc = node.temp_mc or 0
    if temp_mc > policy.temp_max_mc or node.backed_off == "hot":
        return Verdict(name, "hot", temp_mc, mark(node, policy.temp_max_mc, policy.temp_return_mc))
    permille = ram_permille(node)
    if node.ram_used_mb * 1000 > policy.ram_max_permille * node.ram_total_mb or node.backed_off:
        limit = mark(node, policy.ram_max_permille, policy.ram_return_permille)
        return Verdict(name, "ram", permille, limit)
    return None


def mark(node: Node, upper: int, lower: int) -> int:
    """The mark that counts: the lower one for a node that has backed off and has yet to return."""
    return lower if node.backed_off else upper


def ram_permille(node: Node) -> int:
    """Used memory in thousandths of all, rounded up, so that "900.1" never reads as 900."""
    return -(-node.ram_used_mb * 1000 // node.ram_total_mb) if node.ram_total_mb else 0


def drain(holdings: Mapping[str, Holding], slots: int, at_ms: int, model: str) -> tuple[int, bool]:
    """Expected ms until what the node holds is done, and whether that loads `model` anyway."""
    total_ms, loading = 0, False
    for held in holdings.values():
        elapsed_ms = at_ms - held.since_ms if held.started else 0
        total_ms += max(held.run_ms - elapsed_ms, 0)
        loading = loading or held.model == model
    return total_ms // slots, loading


def failed_here(request: Request, node: str) -> int:
    """How many attempts of this request failed on the node."""
    return sum(failure.node == node for failure in request.failures)
