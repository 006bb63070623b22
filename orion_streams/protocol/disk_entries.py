"""Entries of operators that pull a model onto a node's disk, or remove it, and the node's answers. Pure.

    XADD orion:requests:owner * id p1 pull gemma3:4b node orion-worker
    XADD orion:requests:owner * id p2 remove gemma3:4b node orion-worker last 0
    XADD orion:requests:owner * cancel p1

Replies: `progress` while it goes on, and one end: `noted`, `error`, `cancelled` or `rejected`. A resend
while it goes on starts nothing. A node does one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import structs

from orion_streams.errors import ContractError
from orion_streams.model import events as ev
from orion_streams.model.marks import is_heard
from orion_streams.model.names import full_model_name, host_of, is_cloud, same_name
from orion_streams.model.policy import NO_RULES, NodeRules
from orion_streams.model.state import Grid, Node, Run, parse_stream_id
from orion_streams.protocol.agent_entries import PROGRESS_FIELDS, ResultHead
from orion_streams.protocol.input_entries import NOTHING, Entry, Progress, Taken
from orion_streams.protocol.requests_replies import is_model_name
from orion_streams.protocol.rest_entries import answering_node

PULL_OFF = 'No model is pulled here: set pull_from = ["registry.ollama.ai"] in the router\'s streams.toml.'
LATER_MS = 60_000
"""So much later than a node's agent the router ends a pull or removal."""
HELD_BACK, SHOWN = 4, 200
"""Names in a sentence, and characters of names, at most."""


def take_disk(
    grid: Grid, operator: str, fields: Mapping[str, str], reply_to: str, pull_from: Collection[str]
) -> tuple[ev.AnyEvent, ...]:
    """Take `pull` or `remove` of an operator. Raises ContractError bad_field, unknown_node, node_away,
    disk_busy, and what `check_pull`, `check_removal` and `check_not_last` raise."""
    op = "pull" if "pull" in fields else "remove"
    if not is_model_name(fields[op]):
        raise ContractError("bad_field", f"{op}: expected a model's name, e.g. gemma3:4b")
    request = f"{operator}/{reply_to}"
    if any(row.disk is not None and row.disk.request == request for row in grid.nodes.values()):
        return ()  # sent again
    node = answering_node(grid, fields.get("node", ""))
    model = same_name(full_model_name(fields[op]), node.installed)
    if op == "pull":
        check_pull(model, pull_from)
    else:
        check_removal(grid, node, model)
        if fields.get("last", "1") not in ("1", "true"):
            check_not_last(grid, node, model)
    name = node.rules.name
    if not is_heard(grid, node):
        raise ContractError("node_away", f"{name} does not answer just now: nothing is ordered.")
    if node.disk is not None:
        doing = "pulls" if node.disk.op == "pull" else "removes"
        raise ContractError("disk_busy", f"{name} {doing} {node.disk.model} just now, one at a time.")
    return (ev.DiskOrdered(name, op, model, operator, request),)


def check_pull(model: str, pull_from: Collection[str]) -> None:
    """Raise ContractError pull_off if a model's registry is none of those allowed, or it runs elsewhere."""
    if not pull_from:
        raise ContractError("pull_off", PULL_OFF)
    if is_cloud(model):
        what = f"Ollama would ask {model} outside this house: that is never done."
        raise ContractError("pull_off", what)
    if (host := host_of(model)) not in {each.lower() for each in pull_from}:
        allowed = ", ".join(sorted(pull_from))
        raise ContractError(
            "pull_off", f"{host} is not in pull_from of the router's streams.toml: {allowed}."[:300]
        )


def check_removal(grid: Grid, node: Node, model: str) -> None:
    """Raise ContractError unknown_model if the node does not have the model; model_busy if it has work with
    it, is to keep it in memory, or is the last to have it while requests wait for it."""
    name = node.rules.name
    if model not in node.installed:
        raise ContractError("unknown_model", f"{name} does not have {model}.")
    if name in grid.models.get(model, NO_RULES).resident_on:
        what = f'{model} is pinned to {name}: take {name} out of resident_on in [models."{model}"] first.'
        raise ContractError("model_busy", what)
    if held := held_by(node, model):
        raise ContractError("model_busy", f"{name} is at work with {model}: {some(held)}.")
    waiting = {key for key, request in grid.open.items() if request.model == model}
    if waiting and is_last(grid, node, model):
        what = f"no other node has {model}, which is asked for: {some(waiting)}."
        raise ContractError("model_busy", what)


def check_not_last(grid: Grid, node: Node, model: str) -> None:
    """Raise ContractError last_copy if no other node that is heard has the model."""
    others = [row for row in grid.nodes.values() if row is not node and row.keeps(model)]
    if not any(row.rules.takes_inference and is_heard(grid, row) for row in others):
        raise ContractError("last_copy", f"{node.rules.name} has the house's last copy of {model}.")


def is_last(grid: Grid, node: Node, model: str) -> bool:
    """Whether no other node with inference has the model, and keeps it."""
    others = (row for row in grid.nodes.values() if row is not node and row.rules.takes_inference)
    return not any(row.keeps(model) for row in others)


def held_by(node: Node, model: str) -> set[str]:
    """Return what a node was given of a model, and has not ended."""
    held = (each for each in node.assignments.values() if each.model == model)
    return {each.request if isinstance(each, Run) else "a load" for each in held}


def some(names: Collection[str]) -> str:
    """Name a few."""
    return ", ".join(sorted(names)[:HELD_BACK])[:SHOWN]


def cancelled_disk(grid: Grid, request: str, operator: str) -> ev.DiskEnded | None:
    """Return the end of the pull or removal that an entry asked for; None if there is none. `operator`: who
    cancels another's."""
    for name, node in grid.nodes.items():
        if node.disk is not None and node.disk.request == request:
            return structs.replace(ended(name, node, "cancelled"), by=operator)
    return None


def lost_disk(name: str, node: Node, sampled: ev.NodeSampled) -> list[ev.AnyEvent]:
    """Return the end of what a node was told to do with its disk, has read, and does not have: its agent
    lost it, or is too old to know it. One that says goodbye will not read it either."""
    disk = node.disk
    if disk is None or disk.work_id in sampled.in_hand:
        return []
    is_read = parse_stream_id(sampled.work_read) >= parse_stream_id(disk.work_id)
    return [ended(name, node, "gone")] if (sampled.settled if is_read else sampled.goodbye) else []


def dropped_disks(grid: Grid, rules: Collection[NodeRules]) -> list[ev.DiskEnded]:
    """Return the ends of pulls and removals on nodes that these rules drop, or keep without inference."""
    kept = {each.name for each in rules if each.takes_inference}
    return [
        ended(name, node, "gone")
        for name, node in grid.nodes.items()
        if node.disk is not None and name not in kept
    ]


def overdue_disks(grid: Grid, pull_ms: int, remove_ms: int) -> list[ev.DiskEnded]:
    """Return the ends of pulls and removals that have taken too long, whatever their agents say."""
    limits_ms = {"pull": pull_ms + LATER_MS, "remove": remove_ms + LATER_MS}
    return [
        ended(name, node, "overdue")
        for name, node in grid.nodes.items()
        if node.disk is not None and grid.at_ms - node.disk.since_ms > limits_ms[node.disk.op]
    ]


def ended(name: str, node: Node, code: str, source: str = "") -> ev.DiskEnded:
    """Return the end of a node's order. Its node must have one."""
    disk = node.disk
    assert disk is not None  # noqa: S101 - the callers looked
    return ev.DiskEnded(name, disk.op, disk.model, disk.request, disk.work_id, code, source)


def take_disk_result(grid: Grid, entry: Entry, head: ResultHead) -> Taken | None:
    """Take a node's word on its pull or removal: progress, or its end. None if it is of none; late progress
    says nothing."""
    node = grid.nodes.get(entry.owner)
    if node is None or node.disk is None or node.disk.work_id != head.work_id:
        return NOTHING if head.op == "progress" else None
    match head.op:
        case "progress":
            names = (name.encode() for name in PROGRESS_FIELDS)
            fields = {name: value for name in names if (value := entry.fields.get(name))}
            return Taken(progress=Progress(node.disk.request, fields))
        case "completed":
            return Taken((ended(entry.owner, node, ""),))
        case "failed":
            return Taken((ended(entry.owner, node, head.code or "failed", entry.id),))
        case _:
            return NOTHING
