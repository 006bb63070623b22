"""What the reads show, as plain rows: the same data for tables and for --json. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.config import Policy
from orion_streams.events import Verdict
from orion_streams.projections.requests import state_of
from orion_streams.routing import Wait, obstacle, route
from orion_streams.state import Grid, Node, Request


class NodeRow(Struct, frozen=True):
    """A node as routing sees it. `state`: available, no_inference, or the filter that holds it back, with
    the `value` that tripped it and its `limit`. `heard_ms_ago` is None for one never heard of."""

    node: str
    inference: bool
    state: str
    value: int
    limit: int
    tiers: tuple[int, ...]
    temp_mc: int | None
    ram_used_mb: int
    ram_total_mb: int
    cpu_permille: int
    throttled: int
    slots: int
    in_hand: int
    resident: list[str]
    installed: list[str]
    heard_ms_ago: int | None


class ModelRow(Struct, frozen=True):
    """A model on a node. `size_mb` on disk, `resident_mb` in memory."""

    model: str
    node: str
    installed: bool
    resident: bool
    size_mb: int
    resident_mb: int
    digest: str
    context_length: int


class RequestRow(Struct, frozen=True):
    """An open request. While it waits, `waiting` is busy or no_node, `waiting_for` the node that it waits
    for, `reasons` why which node does not take it."""

    client: str
    id: str
    kind: str
    model: str
    state: str
    node: str
    attempt: int
    age_ms: int
    deadline_in_ms: int
    tier: int
    priority: int
    waiting: str
    waiting_for: str
    reasons: dict[str, str]
    failures: list[str]


class ResidentRow(Struct, frozen=True):
    """A model in a node's memory, and how many runs of it the node holds."""

    node: str
    model: str
    resident_mb: int
    context_length: int
    running: int


class PsRows(Struct, frozen=True):
    """`orion ps`."""

    requests: list[RequestRow]
    resident: list[ResidentRow]


def node_rows(grid: Grid) -> list[NodeRow]:
    """All nodes by name, at the grid's `at_ms`."""
    return [node_row(grid, node) for _, node in sorted(grid.nodes.items())]


def node_row(grid: Grid, node: Node) -> NodeRow:
    """One node."""
    found = standing(grid, node, grid.policy)
    return NodeRow(
        node=node.rules.name,
        inference=node.rules.inference,
        state=found.filter or "available",
        value=found.value,
        limit=found.limit,
        tiers=node.rules.tiers,
        temp_mc=node.temp_mc,
        ram_used_mb=node.ram_used_mb,
        ram_total_mb=node.ram_total_mb,
        cpu_permille=node.cpu_permille,
        throttled=node.throttled,
        slots=node.rules.slots if node.rules.inference else 0,
        in_hand=len(node.holdings),
        resident=sorted(node.resident),
        installed=sorted(node.installed),
        heard_ms_ago=None if node.heard_ms is None else grid.at_ms - node.heard_ms,
    )


def standing(grid: Grid, node: Node, policy: Policy) -> Verdict:
    """What routing would find on this node, whatever is asked of it."""
    name = node.rules.name
    if node.heard_ms is None:
        return Verdict(name, "silent")
    probe = any_request(next(iter(node.installed), ""))
    found = obstacle(grid, node, probe, policy)
    if found is not None and found.filter == "stale":
        return found
    if not node.rules.inference:
        return Verdict(name, "no_inference")
    if found is not None and found.filter == "not_installed":
        return Verdict(name, "no_models")
    return with_mark(found, policy) if found is not None else Verdict(name)


def with_mark(found: Verdict, policy: Policy) -> Verdict:
    """The mark that was passed: the upper one while it is, then the lower one, until the node is back."""
    marks = {
        "hot": (policy.temp_max_mc, policy.temp_return_mc),
        "ram": (policy.ram_max_permille, policy.ram_return_permille),
    }
    upper, lower = marks.get(found.filter, (found.limit, found.limit))
    return replace(found, limit=upper if found.value > upper else lower)


def any_request(model: str) -> Request:
    """A request that no filter minds, for this model."""
    return Request(
        entry_id="",
        kind="generate",
        model=model,
        tier=0,
        priority=0,
        stream=False,
        session="",
        accepted=0,
        accepted_ms=0,
        deadline_ms=0,
        body_bytes=0,
        prompt_tokens=0,
        num_predict=0,
    )


def model_rows(grid: Grid) -> list[ModelRow]:
    """One row per (model, node), by model."""
    return sorted(of_nodes(grid), key=lambda row: (row.model, row.node))


def of_nodes(grid: Grid) -> Iterator[ModelRow]:
    """Everything installed or resident anywhere."""
    for name, node in grid.nodes.items():
        for model in {**node.installed, **node.resident}:
            on_disk, in_memory = node.installed.get(model), node.resident.get(model)
            yield ModelRow(
                model=model,
                node=name,
                installed=on_disk is not None,
                resident=in_memory is not None,
                size_mb=on_disk.size_mb if on_disk else 0,
                resident_mb=in_memory.size_mb if in_memory else 0,
                digest=on_disk.digest if on_disk else in_memory.digest if in_memory else "",
                context_length=in_memory.context_length if in_memory else 0,
            )


def ps_rows(grid: Grid) -> PsRows:
    """Open requests, the oldest first, and what is in memory."""
    waiting = sorted(grid.open.items(), key=lambda item: item[1].accepted)
    resident = [
        ResidentRow(
            node=name,
            model=model,
            resident_mb=row.size_mb,
            context_length=row.context_length,
            running=sum(held.model == model for held in node.holdings.values()),
        )
        for name, node in sorted(grid.nodes.items())
        for model, row in sorted(node.resident.items())
    ]
    return PsRows([request_row(grid, key, request) for key, request in waiting], resident)


def request_row(grid: Grid, key: str, request: Request) -> RequestRow:
    """One open request; for a waiting one routing is asked what it waits for."""
    client, _, request_id = key.partition("/")
    decision = None if request.work_id else route(grid, request, grid.policy)
    held_back = decision.verdicts if decision is not None else ()
    return RequestRow(
        client=client,
        id=request_id,
        kind=request.kind,
        model=request.model,
        state=state_of(request),
        node=request.node,
        attempt=request.attempt,
        age_ms=grid.at_ms - request.accepted_ms,
        deadline_in_ms=request.deadline_ms - grid.at_ms,
        tier=request.tier,
        priority=request.priority,
        waiting=decision.kind if isinstance(decision, Wait) else "",
        waiting_for=decision.node if isinstance(decision, Wait) else "",
        reasons={verdict.node: verdict.filter for verdict in held_back if verdict.filter},
        failures=[f"{failure.node}: {failure.code}" for failure in request.failures],
    )
