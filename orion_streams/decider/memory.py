"""The memory ledger of a node: what is taken or promised, what a load needs, what may go for it. Pure.

All sizes in MB as health reports them. A model's weights are memory-mapped, so a machine may show less
than its models need: what counts is the larger of what was measured and what the models say. A load
counts from the moment of its decision, an ordered unload as well, so nothing is promised twice.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from orion_streams.model.learned import footprint_key
from orion_streams.model.policy import NO_RULES, Policy
from orion_streams.model.state import Grid, Holding, Installed, Node, Resident


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
    seen = grid.footprints.get(footprint_key(on_disk.digest, num_ctx, slots))
    if seen is not None:
        return seen
    context_mb = num_ctx * slots * on_disk.size_mb // policy.context_divisor
    return on_disk.size_mb + context_mb + policy.runner_mb


def limit_mb(node: Node, policy: Policy) -> int:
    """How much of a node's memory may be promised: the mark, less a margin."""
    return node.ram_total_mb * (policy.ram_max_permille - policy.ram_margin_permille) // 1000


def capacity_mb(node: Node, policy: Policy) -> int:
    """How much of an otherwise empty node's memory models may take."""
    return limit_mb(node, policy) - policy.ram_system_mb


def committed_mb(grid: Grid, node: Node, policy: Policy) -> int:
    """Memory that is used or promised. Models that were told to go count as gone for a while, and one that
    is loaded anew as what it will be."""
    loads = unseen(grid, node, policy)
    shown_mb = going_mb = 0
    promised_mb = sum(loads.values())
    for model, row in node.resident.items():
        stays = model not in loads and not is_going(grid, node, model, policy)
        if row.pending_mb:
            promised_mb += row.pending_mb if stays else 0
        else:
            shown_mb += row.size_mb
            going_mb += 0 if stays else row.size_mb
    return max(node.ram_used_mb, policy.ram_system_mb + shown_mb) + promised_mb - going_mb


def unseen(grid: Grid, node: Node, policy: Policy) -> dict[str, int]:
    """Memory set aside for loads whose runner is not there yet, by model."""
    loads: dict[str, int] = {}
    for held in node.holdings.values():
        if held.reserve_mb and not is_seen(grid, node, held, policy):
            loads[held.model] = loads.get(held.model, 0) + held.reserve_mb
    return loads


def is_seen(grid: Grid, node: Node, held: Holding, policy: Policy) -> bool:
    """Whether the runner that this run or load brings is in memory."""
    row = node.resident.get(held.model)
    if row is None or is_going(grid, node, held.model, policy):
        return False
    if row.num_ctx == held.num_ctx:
        return row.runner == held.runner
    return not held.num_ctx or (not row.num_ctx and row.context_length in (0, held.num_ctx))


def weights(node: Node, model: str) -> str:
    """What tells whether two names stand for the same file: the digest, else the name."""
    found = node.installed.get(model)
    return found.digest if found is not None else model


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
    digest = node.installed[model].digest
    busy = any(weights(node, held.model) == digest for held in node.holdings.values())
    own = node.resident.get(model)
    if (
        own is not None
        and not is_going(grid, node, model, policy)
        and model not in unseen(grid, node, policy)
    ):
        short_mb -= own.pending_mb or own.size_mb  # Ollama lets it end, then loads it anew
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
    loads = unseen(grid, node, policy)
    busy = {name for each in held for name in (each, weights(node, each))}
    rows = dict(node.resident)
    for other, reserve_mb in held.items():  # it is being loaded: it may go when its work has ended
        if other not in rows:
            rows[other] = Resident("", loads.get(other, reserve_mb), since_ms=grid.at_ms)
    found = []
    for other, row in rows.items():
        pinned = node.rules.name in grid.models.get(other, NO_RULES).resident_on
        if other == model or pinned or is_going(grid, node, other, policy):
            continue
        stay_ms = max(row.since_ms + policy.min_stay_ms - grid.at_ms, 0) if row.since_ms else 0
        found.append(
            Candidate(
                busy=other in busy or row.digest in busy,
                young=stay_ms > 0,
                needed=other in needed,
                used_ms=node.used_ms.get(other, 0),
                model=other,
                size_mb=loads.get(other) or row.pending_mb or row.size_mb,
                stay_ms=stay_ms,
            )
        )
    return sorted(found)
