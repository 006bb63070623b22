"""Health entries to events: a sample, and what changed of a node's models since the last one. Pure."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import structs

from orion_streams.decider.memory import default_num_ctx, footprint_mb, num_ctx_there
from orion_streams.model import events as ev
from orion_streams.model.description import Description
from orion_streams.model.measured import Sample
from orion_streams.model.state import Grid, Node, parse_stream_id
from orion_streams.protocol import agent_entries
from orion_streams.protocol.disk_entries import lost_disk
from orion_streams.protocol.input_entries import NOTHING, Entry, Taken, size_of, unreadable


def take_health(grid: Grid, entry: Entry, results_cursor: str, max_bytes: int) -> Taken:
    """Take a node's complete health: the sample, and loads and unloads derived from what changed."""
    if size_of(entry) > max_bytes:
        return unreadable(entry, "too_large")
    node = grid.nodes.get(entry.owner)
    try:
        head = agent_entries.decode_health(entry.fields.get(b"head", b""))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return unreadable(entry)
    if node is None:
        return NOTHING
    models = [*inventory_changes(node, entry.owner, head), *descriptions(grid, entry.owner, head)]
    digest = inventory_digest(head.inventory) if head.inventory is not None else known_digest(node)
    sampled = ev.NodeSampled(
        node=entry.owner,
        boot=head.boot,
        sampled_ms=head.sampled_ms,
        age_ms=entry.age_ms,
        **Sample.of(head).fields(),
        work_read=head.work_read,
        in_hand=head.in_hand,
        settled=parse_stream_id(head.results_written) <= parse_stream_id(results_cursor),
        inventory_known=bool(head.inventory_digest) and digest == head.inventory_digest,
        left_out=head.left_out,
        left_out_why=head.left_out_why,
        remote=head.remote,
        sensor=head.sensor,
        engine=head.engine,
        leaving=head.leaving,
        goodbye=head.goodbye,
    )
    lost = lost_disk(entry.owner, node, sampled)
    return Taken((sampled, *models, *residency_changes(grid, node, head), *lost))


def inventory_digest(models: tuple[agent_entries.InstalledModel, ...]) -> str:
    """Return a name for a list of installed models, in whatever order it comes."""
    rows = sorted(f"{row.name} {row.digest} {row.size_mb}" for row in models)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


def known_digest(node: Node) -> str:
    """Return the digest of the models that the grid believes to be installed."""
    rows = (agent_entries.InstalledModel(n, row.digest, row.size_mb) for n, row in node.installed.items())
    return inventory_digest(tuple(rows))


def inventory_changes(node: Node, name: str, head: agent_entries.HealthHead) -> list[ev.AnyEvent]:
    """Return installed and removed models, if the entry holds the list."""
    if head.inventory is None:
        return []
    there = {row.name: row for row in head.inventory}
    changes: list[ev.AnyEvent] = [
        ev.ModelRemoved(name, model) for model in node.installed if model not in there
    ]
    for model, row in there.items():
        before = node.installed.get(model)
        if before is None or (before.digest, before.size_mb) != (row.digest, row.size_mb):
            changes.append(ev.ModelInstalled(name, model, row.digest, row.size_mb))
    return changes


def descriptions(grid: Grid, name: str, head: agent_entries.HealthHead) -> list[ev.AnyEvent]:
    """Return what the log does not know yet of models. What it knows stays: Ollamas of different versions
    describe the same model in different words."""
    changes: list[ev.AnyEvent] = []
    for row in head.described:
        values = structs.asdict(row)
        model, digest = values.pop("name"), values.pop("digest")
        known = structs.asdict(grid.described.get(digest, Description()))
        values = {field: known[field] or said for field, said in values.items()}
        if digest not in grid.described or values != known:
            changes.append(ev.ModelDescribed(name, model, digest, Description(**values)))
    return changes


def residency_changes(grid: Grid, node: Node, head: agent_entries.HealthHead) -> list[ev.AnyEvent]:
    """Return loaded and unloaded models. Another context length is another runner, so a new load."""
    name = node.rules.name
    there = {
        row.name: structs.replace(row, size_mb=believed_mb(grid, node, row, head.ram_total_mb))
        for row in head.resident
    }
    changes: list[ev.AnyEvent] = [
        ev.ModelUnloaded(name, model) for model in node.resident if model not in there
    ]
    for model, row in there.items():
        before = node.resident.get(model)
        if before is None or (before.digest, before.size_mb, before.context_length) != (
            row.digest,
            row.size_mb,
            row.context_length,
        ):
            loaded = ev.ModelLoaded(name, model, row.digest, row.size_mb, row.context_length)
            changes.append(loaded)
    return changes


def believed_mb(grid: Grid, node: Node, row: agent_entries.ResidentModel, ram_total_mb: int) -> int:
    """Return the memory of a runner: as Ollama says, or as expected where that is more than the machine
    has, or less than half of the weights."""
    on_disk = node.installed.get(row.name)
    if on_disk is None:
        return min(row.size_mb, ram_total_mb)
    if on_disk.size_mb // 2 <= row.size_mb <= ram_total_mb:
        return row.size_mb
    return footprint_mb(grid, node, on_disk, num_ctx_there(node, default_num_ctx(grid, row.name)))
