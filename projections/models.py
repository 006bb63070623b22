"""Which models each node has on disk and in memory."""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.learned import footprint_key
from orion_streams.model.state import Assignment, Grid, Installed, Node, Resident, without
from orion_streams.model.vocabulary import UNLOADED


def installed(grid: Grid, event: ev.ModelInstalled) -> None:
    """Note a model on the node's disk."""
    node = grid.nodes.get(event.node)
    if node is not None:
        row = Installed(event.digest, event.size_mb)
        grid.nodes[event.node] = replace(node, installed={**node.installed, event.model: row})


def removed(grid: Grid, event: ev.ModelRemoved) -> None:
    """Forget a model that left the node's disk, and what it was, once no node has it."""
    node = grid.nodes.get(event.node)
    if node is not None and event.model in node.installed:
        digest = node.installed[event.model].digest
        grid.nodes[event.node] = replace(node, installed=without(node.installed, event.model))
        if not any(row.digest == digest for each in grid.nodes.values() for row in each.installed.values()):
            grid.described.pop(digest, None)


def disk_ended(grid: Grid, event: ev.DiskEnded) -> None:
    """Forget a model that an order removed, also from memory, sooner than the node's next list."""
    node = grid.nodes.get(event.node)
    if node is None or event.op != "remove" or event.code:
        return
    grid.nodes[event.node] = not_resident(node, event.model)
    removed(grid, ev.ModelRemoved(event.node, event.model))


MAX_FOOTPRINTS, MAX_DESCRIBED = 256, 1_000


def described(grid: Grid, event: ev.ModelDescribed) -> None:
    """Note what a model is; of too many the one that was described the longest ago is forgotten."""
    grid.described.pop(event.digest, None)
    grid.described[event.digest] = event.about
    if len(grid.described) > MAX_DESCRIBED:
        del grid.described[next(iter(grid.described))]


def loaded(grid: Grid, event: ev.ModelLoaded) -> None:
    """Note a model in the node's memory. What our own runs know of its options stays, unless Ollama
    shows another runner. More models at a time than a limit that was learned: it is none."""
    node = grid.nodes.get(event.node)
    if node is None:
        return
    if node.most_models and len(node.resident.keys() | {event.model}) > node.most_models:
        node = replace(node, most_models=0, most_models_ms=0)
    before = node.resident.get(event.model)
    row = Resident(event.digest, event.size_mb, event.context_length, since_ms=grid.at_ms)
    if before is not None and before.context_length in (0, event.context_length):
        row = replace(row, num_ctx=before.num_ctx, runner=before.runner, since_ms=before.since_ms)
    else:
        node = replace(
            node,
            sessions=without(node.sessions, event.model),
            unload_ordered_ms=without(node.unload_ordered_ms, event.model),
        )
        row = asked_of(node, event.model, row) if before is None else row
    grid.nodes[event.node] = replace(node, resident={**node.resident, event.model: row})
    learn_footprint(grid, node, row)


def learn_footprint(grid: Grid, node: Node, row: Resident) -> None:
    """Note what the runner takes; of too many footprints the oldest is forgotten."""
    seen = footprint_key(row.digest, row.context, node.rules.slots)
    grid.footprints.pop(seen, None)
    grid.footprints[seen] = row.size_mb
    if len(grid.footprints) > MAX_FOOTPRINTS:
        del grid.footprints[next(iter(grid.footprints))]


def asked_of(node: Node, model: str, row: Resident) -> Resident:
    """Return the row with the options of the run, or ordered load, that has just brought the model."""
    for held in node.assignments.values():
        if held.model == model and held.num_ctx:
            return replace(row, num_ctx=held.num_ctx, runner=held.runner)
    return row


def load_ended(grid: Grid, event: ev.LoadEnded) -> None:
    """Note the loaded model, sooner than health shows it; or when the load failed, so that it is not
    tried again at once."""
    node = grid.nodes.get(event.node)
    held = node.assignments.get(event.work_id) if node is not None else None
    if node is None or held is None:
        return
    if not event.ok:
        failed = {**node.load_failed_ms, event.model: grid.at_ms}
        grid.nodes[event.node] = replace(node, load_failed_ms=failed)
        return
    keep_resident(grid, node, event.model, held)


def unload_ordered(grid: Grid, event: ev.UnloadOrdered) -> None:
    """Note when the node was told to unload the model."""
    node = grid.nodes.get(event.node)
    if node is not None:
        ordered = {**node.unload_ordered_ms, event.model: grid.at_ms}
        grid.nodes[event.node] = replace(node, unload_ordered_ms=ordered)


def unloaded(grid: Grid, event: ev.ModelUnloaded) -> None:
    """Forget a model that left the node's memory. If it went unasked while another came, Ollama has thrown
    it out: it holds only as many as remain."""
    node = grid.nodes.get(event.node)
    if node is not None and event.model in node.resident:
        coming = newcomers(grid, node, event.model)
        if coming and is_thrown_out(grid, node, event.model, coming):
            left = (node.resident.keys() | coming) - {event.model}
            node = replace(node, most_models=len(left), most_models_ms=grid.at_ms)
        grid.nodes[event.node] = not_resident(node, event.model)


def not_resident(node: Node, model: str) -> Node:
    """Return the node without a model in memory."""
    return replace(
        node,
        resident=without(node.resident, model),
        unload_ordered_ms=without(node.unload_ordered_ms, model),
        sessions=without(node.sessions, model),
    )


JUST_MS = 5_000
"""A model that came so short a time ago may be why another went: health tells of both at once, or of one
after the other."""


EXPIRES_MS = 240_000
"""A model that was asked for longer ago may have gone because its time had come (Ollama's own: 5
minutes)."""


def is_thrown_out(grid: Grid, node: Node, model: str, coming: set[str]) -> bool:
    """Whether a model went only because the node holds no more: nobody told it to, it was in use of late,
    nothing failed, and there was memory for all."""
    if model in node.unload_ordered_ms or not node.inventory_known or is_recent(grid, node.failed_ms):
        return False
    if grid.at_ms - node.used_ms.get(model, -EXPIRES_MS) >= EXPIRES_MS:
        return False
    there_mb = sum(row.size_mb for row in node.resident.values())
    loads = [held for held in node.assignments.values() if held.model in coming]
    coming_mb = sum(held.reserve_mb for held in loads if held.model not in node.resident)
    free_mb = node.ram_total_mb * grid.policy.ram_max_permille // 1000 - grid.policy.ram_system_mb
    return there_mb + coming_mb <= free_mb


def is_recent(grid: Grid, at_ms: int | None) -> bool:
    """Whether something happened so short a time ago that it may be why a model went."""
    return at_ms is not None and grid.at_ms - at_ms < JUST_MS


def newcomers(grid: Grid, node: Node, model: str) -> set[str]:
    """Return the other models that are being loaded, or have just come."""
    assigned = {held.model for held in node.assignments.values() if held.model not in node.resident}
    came = {name for name, row in node.resident.items() if is_recent(grid, row.since_ms or None)}
    return (assigned | came) - {model}


def ran(grid: Grid, event: ev.RequestCompleted) -> None:
    """Note what an answer shows, sooner than the next health entry: its model is in memory, with which
    options, and whose prompt its slot holds."""
    request, node = grid.open.get(event.request), grid.nodes.get(event.node)
    if request is None or node is None:
        return
    if event.done_reason == UNLOADED:  # told to go by a client: it is not thrown out
        ordered = {**node.unload_ordered_ms, request.model: grid.at_ms}
        grid.nodes[event.node] = replace(node, unload_ordered_ms=ordered)
        return
    held = node.assignments.get(event.work_id)
    if held is not None:
        node = keep_resident(grid, node, request.model, held)
    if request.session or request.model in node.sessions:
        others = (each for each in node.sessions.get(request.model, ()) if each != request.session)
        latest = (request.session, *others)[: node.rules.slots]
        grid.nodes[event.node] = replace(node, sessions={**node.sessions, request.model: latest})


def keep_resident(grid: Grid, node: Node, model: str, held: Assignment) -> Node:
    """Return the node with the model in memory, as this run or load has left it there."""
    row, on_disk = node.resident.get(model), node.installed.get(model)
    if on_disk is not None and (row is None or row.digest != on_disk.digest):
        row = Resident(
            on_disk.digest,
            on_disk.size_mb,
            since_ms=grid.at_ms,
            pending_mb=held.reserve_mb or on_disk.size_mb,
        )
    if row is None:
        return node
    row = replace(row, num_ctx=held.num_ctx, runner=held.runner)
    if row == node.resident.get(model) and model not in node.unload_ordered_ms:
        return node
    kept = replace(
        node,
        resident={**node.resident, model: row},
        unload_ordered_ms=without(node.unload_ordered_ms, model),
    )
    grid.nodes[node.rules.name] = kept
    return kept
