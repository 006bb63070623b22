"""Which models each node has on disk and in memory."""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams import events as ev
from orion_streams.state import Grid, Installed, Resident


def installed(grid: Grid, event: ev.ModelInstalled) -> None:
    """The model is on the node's disk."""
    node = grid.nodes.get(event.node)
    if node is not None:
        row = Installed(event.digest, event.size_mb)
        grid.nodes[event.node] = replace(node, installed={**node.installed, event.model: row})


def removed(grid: Grid, event: ev.ModelRemoved) -> None:
    """The model is no longer on the node's disk."""
    node = grid.nodes.get(event.node)
    if node is not None and event.model in node.installed:
        left = {name: row for name, row in node.installed.items() if name != event.model}
        grid.nodes[event.node] = replace(node, installed=left)


def loaded(grid: Grid, event: ev.ModelLoaded) -> None:
    """The model is in the node's memory."""
    node = grid.nodes.get(event.node)
    if node is not None:
        row = Resident(event.digest, event.size_mb, event.context_length)
        grid.nodes[event.node] = replace(node, resident={**node.resident, event.model: row})


def unload_ordered(grid: Grid, event: ev.UnloadOrdered) -> None:
    """The node was told to let go of the model."""
    node = grid.nodes.get(event.node)
    if node is not None:
        ordered = {**node.unload_ordered_ms, event.model: grid.at_ms}
        grid.nodes[event.node] = replace(node, unload_ordered_ms=ordered)


def unloaded(grid: Grid, event: ev.ModelUnloaded) -> None:
    """The model left the node's memory."""
    node = grid.nodes.get(event.node)
    if node is not None and event.model in node.resident:
        left = {name: row for name, row in node.resident.items() if name != event.model}
        ordered = {name: ms for name, ms in node.unload_ordered_ms.items() if name != event.model}
        grid.nodes[event.node] = replace(node, resident=left, unload_ordered_ms=ordered)


def ran(grid: Grid, event: ev.RequestCompleted) -> None:
    """An answer shows that its model is in memory, sooner than the next health entry does."""
    request, node = grid.open.get(event.request), grid.nodes.get(event.node)
    if request is None or node is None or request.model in node.resident:
        return
    on_disk = node.installed.get(request.model)
    if on_disk is not None:
        row = Resident(on_disk.digest, on_disk.size_mb)
        grid.nodes[event.node] = replace(node, resident={**node.resident, request.model: row})
