"""The memory ledger of a node: what is taken or promised, what a load needs, what may go for it. Pure.

All sizes in MB as health reports them. A model's weights are memory-mapped, so a machine may show less
than its models need: what counts is the larger of what was measured and what the models say. A load
counts from the moment of its decision, an ordered unload as well, so nothing is promised twice.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from orion_streams.config import ModelRules, Policy
from orion_streams.state import Grid, Installed, Node, Resident

NO_RULES = ModelRules()


class Room(Struct, frozen=True):
    """What a load would find. `need_mb` is what it takes; `evicts` are the models that go for it;
    `wait_ms` how long the youngest of them is to stay; `busy`: it can only begin when work that is in
    hand has ended. `short_mb` > 0: so much is missing, whatever goes."""

    need_mb: int
    evicts: tuple[str, ...] = ()
    wait_ms: int = 0
    busy: bool = False
    short_mb: int = 0


def footprint_mb(grid: Grid, node: Node, on_disk: Installed, num_ctx: int, policy: Policy) -> int:
    """Memory of a runner: as it was seen, else weights + context (per slot) + what a runner takes."""
    slots = node.rules.slots
    seen = grid.footprints.get(f"{on_disk.digest} {num_ctx} {slots}") if grid.footprints else None
    if seen is not None:
        return seen
    context_mb = num_ctx * slots * on_disk.size_mb // policy.context_divisor
    return on_disk.size_mb + context_mb + policy.runner_mb


def footprint_key(digest: str, num_ctx: int, slots: int) -> str:
    """What a runner's memory depends on."""
    return f"{digest} {num_ctx} {slots}"


def limit_mb(node: Node, policy: Policy) -> int:
    """How much of a node's memory may be promised: the mark, less a margin."""
    return node.ram_total_mb * (policy.ram_max_permille - policy.ram_margin_permille) // 1000


def capacity_mb(node: Node, policy: Policy) -> int:
    """How much of an otherwise empty node's memory models may take."""
    return limit_mb(node, policy) - policy.ram_system_mb


def committed_mb(grid: Grid, node: Node, policy: Policy) -> int:
    """Memory that is used or promised. Models that were told to go count as gone for a while."""
    shown_mb = promised_mb = going_mb = 0
    for model, row in node.resident.items():
        if row.pending_mb:
            promised_mb += row.pending_mb
        else:
            shown_mb += row.size_mb
            going_mb += row.size_mb if is_going(grid, node, model, policy) else 0
    for held in node.holdings.values():
        if held.reserve_mb and held.model not in node.resident:
            promised_mb += held.reserve_mb
    return max(node.ram_used_mb, policy.ram_system_mb + shown_mb) + promised_mb - going_mb


def is_going(grid: Grid, node: Node, model: str, policy: Policy) -> bool:
    """Whether the model was told to go, and may still be about to."""
    ordered_ms = node.unload_ordered_ms.get(model)
    return ordered_ms is not None and grid.at_ms - ordered_ms <= policy.unload_again_ms


def room(
    grid: Grid, node: Node, model: str, num_ctx: int, policy: Policy, needed: Collection[str] = ()
) -> Room:
    """What a load of an installed model finds on the node. What goes first: idle models, not young, not
    `needed` by who waits, the least recently used."""
    need_mb = footprint_mb(grid, node, node.installed[model], num_ctx, policy)
    permille = policy.ram_max_permille - policy.ram_margin_permille
    if not node.resident and not node.holdings:  # nothing but the machine itself: the hot path
        used_mb = node.ram_used_mb if node.ram_used_mb > policy.ram_system_mb else policy.ram_system_mb
        short_mb = need_mb + used_mb - node.ram_total_mb * permille // 1000
        return Room(need_mb) if short_mb <= 0 else Room(need_mb, short_mb=short_mb)
    short_mb = need_mb + committed_mb(grid, node, policy) - limit_mb(node, policy)
    busy = False
    own = node.resident.get(model)
    if own is not None:  # another runner of the same model: Ollama lets it end, then loads it anew
        short_mb -= own.size_mb
        busy = any(held.model == model for held in node.holdings.values())
    if short_mb <= 0:
        return Room(need_mb, busy=busy)
    chosen, short_mb = choose(grid, node, model, short_mb, policy, needed)
    if short_mb > 0:
        return Room(need_mb, short_mb=short_mb)
    return Room(
        need_mb,
        evicts=tuple(sorted(each.model for each in chosen)),
        wait_ms=max(each.stay_ms for each in chosen),
        busy=busy or any(each.busy for each in chosen),
    )


class Candidate(Struct, frozen=True, order=True):
    """A model that may go, in the order of going."""

    busy: bool
    young: bool
    needed: bool
    used_ms: int
    model: str
    size_mb: int
    stay_ms: int


def choose(
    grid: Grid, node: Node, model: str, short_mb: int, policy: Policy, needed: Collection[str]
) -> tuple[list[Candidate], int]:
    """The models that go, and how much is missing even then. One that turns out not to matter stays."""
    chosen: list[Candidate] = []
    for each in candidates(grid, node, model, policy, needed):
        if short_mb <= 0:
            break
        chosen.append(each)
        short_mb -= each.size_mb
    if short_mb <= 0:
        for each in list(chosen[:-1]):
            if short_mb + each.size_mb <= 0:
                chosen.remove(each)
                short_mb += each.size_mb
    return chosen, short_mb


def candidates(
    grid: Grid, node: Node, model: str, policy: Policy, needed: Collection[str]
) -> list[Candidate]:
    """Models that may go for this one, those that should go first at the head. Pinned ones never do."""
    held: dict[str, int] = {}
    for each in node.holdings.values():
        held[each.model] = max(each.reserve_mb, held.get(each.model, 0))
    rows = dict(node.resident)
    for other, reserve_mb in held.items():  # it is being loaded: it may go when its work has ended
        if other not in rows:
            rows[other] = Resident("", reserve_mb, since_ms=grid.at_ms)
    found = []
    for other, row in rows.items():
        pinned = node.rules.name in grid.models.get(other, NO_RULES).resident_on
        if other == model or pinned or is_going(grid, node, other, policy):
            continue
        stay_ms = max(row.since_ms + policy.min_stay_ms - grid.at_ms, 0) if row.since_ms else 0
        found.append(
            Candidate(
                busy=other in held,
                young=stay_ms > 0,
                needed=other in needed,
                used_ms=node.used_ms.get(other, 0),
                model=other,
                size_mb=row.pending_mb or row.size_mb,
                stay_ms=stay_ms,
            )
        )
    return sorted(found)
