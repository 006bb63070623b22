"""The memory of a node: what is taken or promised, what a load needs, what may go for it. Pure.

All sizes in MB as health reports them. A model's weights are memory-mapped, so a machine may show less
than its models need: the larger of the measured use and the models' own sizes counts. A load counts from
the moment of its decision, and so does an ordered unload: nothing is promised twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from msgspec import Struct

from orion_streams.model.description import Description
from orion_streams.model.learned import footprint_key
from orion_streams.model.policy import NO_RULES, OLLAMA_NUM_CTX, Policy
from orion_streams.model.state import Assignment, Grid, Installed, Node, Request, Resident


class Room(Struct, frozen=True, kw_only=True, gc=False):
    """What a load finds on a node.

    `need_mb`: what it takes. `evicts`: the models that go for it. `wait_ms`: how long the youngest of
    them stays. `busy`: it can begin only when assigned work has ended. `short_mb` > 0: so much is
    missing, whatever goes; `crowd` > 0: so many models would have to go, and may not.
    """

    need_mb: int
    evicts: tuple[str, ...] = ()
    wait_ms: int = 0
    busy: bool = False
    short_mb: int = 0
    crowd: int = 0


def footprint_mb(grid: Grid, node: Node, on_disk: Installed, num_ctx: int) -> int:
    """Return the memory of a runner: as seen, else weights + context per slot + the runner's own."""
    slots, policy = node.rules.slots, grid.policy
    seen_mb = grid.footprints.get(footprint_key(on_disk.digest, num_ctx, slots))
    if seen_mb is not None:
        return seen_mb
    context_mb = num_ctx * slots * on_disk.size_mb // policy.context_divisor
    return on_disk.size_mb + context_mb + policy.runner_mb


def default_num_ctx(grid: Grid, model: str) -> int:
    """Return the context length of a model for who asks for none: pinned, by policy, its Modelfile's, or
    Ollama's, never more than its `max_num_ctx`, nor than it was trained for."""
    rules, own, trained = grid.models.get(model, NO_RULES), 0, 0
    for row in descriptions(grid, model):
        own, trained = max(own, row.num_ctx), max(trained, row.context_length)
    wanted = rules.num_ctx or grid.policy.num_ctx or own or OLLAMA_NUM_CTX
    return min([wanted, *(limit for limit in (rules.max_num_ctx, trained) if limit)])


def descriptions(grid: Grid, model: str) -> Iterator[Description]:
    """Yield what is known of the model, as each node has it."""
    for node in grid.nodes.values():
        on_disk = node.installed.get(model)
        row = grid.described.get(on_disk.digest) if on_disk is not None else None
        if row is not None:
            yield row


def wanted_num_ctx(grid: Grid, node: Node, request: Request) -> int:
    """Return how much context the request needs on this node."""
    return num_ctx_there(node, request.num_ctx or default_num_ctx(grid, request.model))


def num_ctx_there(node: Node, num_ctx: int) -> int:
    """Return a context length, limited to what the node allows."""
    return min(num_ctx, node.rules.max_num_ctx) if node.rules.max_num_ctx else num_ctx


def serves(grid: Grid, row: Resident, num_ctx: int, runner: str) -> bool:
    """Whether a runner takes a run as it is, by the policy."""
    return row.serves(num_ctx, runner, grid.policy.num_ctx_reuse == "exact")


def limit_mb(node: Node, policy: Policy) -> int:
    """Return how much of a node's memory may be promised: the mark, less a margin."""
    return node.ram_total_mb * (policy.ram_max_permille - policy.ram_margin_permille) // 1000


def capacity_mb(node: Node, policy: Policy) -> int:
    """Return how much of an otherwise empty node's memory models may take."""
    return limit_mb(node, policy) - policy.ram_system_mb


def committed_mb(grid: Grid, node: Node) -> int:
    """Return the memory that is used or promised. Models that were told to go count as gone for a
    while, and one that is loaded anew counts as what it will be."""
    if not (node.resident or node.assignments):
        return max(node.ram_used_mb, grid.policy.ram_system_mb)
    loads = pending_loads(grid, node)
    shown_mb = going_mb = 0
    promised_mb = sum(loads.values())
    for model, row in node.resident.items():
        stays = model not in loads and not unload_pending(grid, node, model)
        if row.pending_mb:
            promised_mb += row.pending_mb if stays else 0
        else:
            shown_mb += row.size_mb
            going_mb += 0 if stays else row.size_mb
    return max(node.ram_used_mb, grid.policy.ram_system_mb + shown_mb) + promised_mb - going_mb


def pending_loads(grid: Grid, node: Node) -> dict[str, int]:
    """Return the memory set aside for loads whose runner is not there yet, by model."""
    loads: dict[str, int] = {}
    for held in node.assignments.values():
        if held.reserve_mb and not has_runner(grid, node, held):
            loads[held.model] = loads.get(held.model, 0) + held.reserve_mb
    return loads


def has_runner(grid: Grid, node: Node, held: Assignment) -> bool:
    """Whether the runner that this run or load brings is in memory, and stays."""
    row = node.resident.get(held.model)
    if row is None or unload_pending(grid, node, held.model):
        return False
    return serves(grid, row, held.num_ctx, held.runner)


def weights(node: Node, model: str) -> str:
    """Return what tells whether two names stand for the same file: the digest, else the name."""
    found = node.installed.get(model)
    return found.digest if found is not None else model


def assigned_models(node: Node) -> set[str]:
    """Return the models of the node's assignments, each by name and by weights."""
    models = set()
    for held in node.assignments.values():
        models |= {held.model, weights(node, held.model)}
    return models


def unload_pending(grid: Grid, node: Node, model: str) -> bool:
    """Whether the model was told to go less than `unload_again_ms` ago."""
    ordered_ms = node.unload_ordered_ms.get(model)
    return ordered_ms is not None and grid.at_ms - ordered_ms <= grid.policy.unload_again_ms


def room(grid: Grid, node: Node, model: str, num_ctx: int, needed: Collection[str] = ()) -> Room:
    """Return what a load of an installed model finds on the node. First to go are idle models that are
    not young and not `needed` by waiting requests, the least recently used first."""
    on_disk = node.installed[model]
    need_mb = footprint_mb(grid, node, on_disk, num_ctx)
    short_mb = need_mb + committed_mb(grid, node) - limit_mb(node, grid.policy)
    busy = bool(node.assignments) and on_disk.digest in assigned_models(node)
    own = node.resident.get(model)
    if own is not None and not unload_pending(grid, node, model) and model not in pending_loads(grid, node):
        short_mb -= own.pending_mb or own.size_mb  # Ollama lets it end, then loads it anew
    crowd = crowd_of(grid, node, model)
    if short_mb <= 0 and crowd <= 0:
        return Room(need_mb=need_mb, busy=busy)
    chosen, short_mb, crowd = choose(candidates(grid, node, model, needed), short_mb, crowd)
    if short_mb > 0 or crowd > 0:
        return Room(need_mb=need_mb, short_mb=max(short_mb, 0), crowd=max(crowd, 0))
    return Room(
        need_mb=need_mb,
        evicts=tuple(sorted(each.model for each in chosen)),
        wait_ms=max(each.stay_ms for each in chosen),
        busy=busy or any(each.busy for each in chosen),
    )


def places(grid: Grid, node: Node) -> int:
    """Return how many models the node's Ollama keeps at a time: as configured, or as it showed of late."""
    is_fresh = node.most_models and grid.at_ms - node.most_models_ms < grid.policy.speed_half_ms
    return min(node.most_models, node.rules.max_models) if is_fresh else node.rules.max_models


def crowd_of(grid: Grid, node: Node, model: str) -> int:
    """Return how many models have to go before this one has a place, by their number alone."""
    there = {name for name in node.resident if not unload_pending(grid, node, name)}
    there |= {held.model for held in node.assignments.values()}
    digests = {weights(node, name) for name in there} - {weights(node, model)}
    return len(digests) + 1 - places(grid, node)


class Evictable(Struct, frozen=True, order=True):
    """A model that may go. Its fields are the order of going."""

    busy: bool
    young: bool
    needed: bool
    used_ms: int
    model: str
    size_mb: int
    stay_ms: int


def choose(found: list[Evictable], short_mb: int, crowd: int) -> tuple[list[Evictable], int, int]:
    """Return the models that go, and how much, and how many places, are missing even then. Spare those
    that need not go."""
    chosen: list[Evictable] = []
    for each in found:
        if short_mb <= 0 and crowd <= 0:
            break
        chosen.append(each)
        short_mb, crowd = short_mb - each.size_mb, crowd - 1
    if short_mb <= 0 and crowd <= 0:
        for each in list(chosen[:-1]):
            if short_mb + each.size_mb <= 0 and crowd < 0:
                chosen.remove(each)
                short_mb, crowd = short_mb + each.size_mb, crowd + 1
    return chosen, short_mb, crowd


def candidates(grid: Grid, node: Node, model: str, needed: Collection[str]) -> list[Evictable]:
    """Return the models that may go for this one, first to go first. Pinned ones never do."""
    loads, busy = pending_loads(grid, node), assigned_models(node)
    found = []
    for other, row in memory_rows(grid, node, loads):
        pinned = node.rules.name in grid.models.get(other, NO_RULES).resident_on
        if other == model or pinned or unload_pending(grid, node, other):
            continue
        stay_ms = max(row.since_ms + grid.policy.min_stay_ms - grid.at_ms, 0) if row.since_ms else 0
        found.append(
            Evictable(
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


def memory_rows(grid: Grid, node: Node, loads: dict[str, int]) -> Iterator[tuple[str, Resident]]:
    """Yield the models in memory, then those that are being loaded: they may go after their work."""
    yield from node.resident.items()
    reserved: dict[str, int] = {}
    for held in node.assignments.values():
        if held.model not in node.resident:
            reserved[held.model] = max(held.reserve_mb, reserved.get(held.model, 0))
    for model, reserve_mb in reserved.items():
        yield model, Resident("", loads.get(model, reserve_mb), since_ms=grid.at_ms)
