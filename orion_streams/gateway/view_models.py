"""The rows of the reads, for tables and for --json. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.filters import at_rest, node_filter, unheard
from orion_streams.decider.memory import capacity_mb, committed_mb
from orion_streams.decider.route import Wait, open_slots, route, running
from orion_streams.model.marks import is_heard
from orion_streams.model.names import same_name
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Load, Node, Request, Run
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import BreakerState, Filter, RequestKind
from orion_streams.projections import breaker
from orion_streams.projections.requests import state_of
from orion_streams.protocol.admission import runner_options


class NodeRow(Struct, frozen=True):
    """A node as routing sees it. `state`: available, no_inference, no_models, or the filter that excludes
    it for every request, with the `value` that tripped it and its `limit`.

    `derated`: it counts as slower because it is near the mark. `open_slots`: the runs that it may hold now.
    `breaker`: closed, open (for `breaker_left_ms`), probing or ramp. `loading`: models that it was told to
    load. `heard_ms_ago`: None if it was never heard from. `engine`: what runs its models.
    `drained_by`: the operator who drained it.
    """

    node: str
    inference: bool
    state: str
    value: int
    limit: int
    tiers: tuple[int, ...]
    temp_mc: int | None
    forecast_mc: int | None
    derated: bool
    ram_used_mb: int
    ram_total_mb: int
    committed_mb: int
    capacity_mb: int
    cpu_permille: int
    throttled: int
    slots: int
    open_slots: int
    in_hand: int
    breaker: str
    breaker_left_ms: int
    resident: list[str]
    loading: list[str]
    installed: list[str]
    heard_ms_ago: int | None
    engine: str
    drained_by: str = ""


class ModelRow(Struct, frozen=True):
    """A model on a node. `size_mb` on disk, `resident_mb` in memory. `num_ctx`: the context its runner was
    asked for (0: unknown); `context_length`: what Ollama reports; `can`: its capabilities, in Ollama's
    words. `lacked_by`: the nodes that take requests and have it not on disk."""

    model: str
    node: str
    installed: bool
    resident: bool
    size_mb: int
    resident_mb: int
    digest: str
    context_length: int
    num_ctx: int
    can: tuple[str, ...]
    lacked_by: tuple[str, ...]


class RequestRow(Struct, frozen=True):
    """An open request. While it waits: `waiting` is the kind of its wait, `waiting_for` the node it waits
    for, and `reasons` maps each excluded node to its filter."""

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
    """A model in the memory of a node, and how many of its runs the node holds."""

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
    """List all nodes by name, at the grid's `at_ms`."""
    return [node_row(grid, node) for _, node in sorted(grid.nodes.items())]


def node_row(grid: Grid, node: Node) -> NodeRow:
    """Make the row of one node."""
    found = standing(grid, node, grid.policy)
    takes_inference = node.rules.takes_inference
    state, left_ms = breaker_of(grid, node)
    return NodeRow(
        node=node.rules.name,
        inference=takes_inference,
        state=found.filter or "available",
        value=found.value,
        limit=found.limit,
        tiers=node.rules.tiers,
        temp_mc=node.temp_mc,
        forecast_mc=None if node.temp_mc is None else max(node.forecast_mc, node.temp_mc),
        derated=node.forecast_mc > grid.policy.temp_return_mc,
        ram_used_mb=node.ram_used_mb,
        ram_total_mb=node.ram_total_mb,
        committed_mb=committed_mb(grid, node) if node.heard_ms is not None else 0,
        capacity_mb=max(capacity_mb(node, grid.policy), 0),
        cpu_permille=node.cpu_permille,
        throttled=node.throttled,
        slots=node.rules.slots if takes_inference else 0,
        open_slots=open_slots(grid, node) if takes_inference else 0,
        in_hand=running(node),
        breaker=state,
        breaker_left_ms=left_ms,
        resident=sorted(node.resident),
        loading=sorted({held.model for held in node.assignments.values() if isinstance(held, Load)}),
        installed=sorted(node.installed),
        heard_ms_ago=None if node.heard_ms is None else grid.at_ms - node.heard_ms,
        engine=node.engine,
        drained_by=node.rest.by if node.rest is not None else "",
    )


def breaker_of(grid: Grid, node: Node) -> tuple[str, int]:
    """Return the state of a node's breaker, and for how many ms it is still open."""
    state = breaker.state_of(grid, node)
    left_ms = (node.opened_ms or 0) + node.open_ms - grid.at_ms
    return state, left_ms if state == BreakerState.OPEN else 0


MOST_ASKED = 20
NO_INFERENCE, NO_MODELS = Filter("no_inference"), Filter("no_models")
"""Why a node that no filter holds back takes nothing all the same."""


def standing(grid: Grid, node: Node, policy: Policy) -> Verdict:
    """Return the verdict on a node, available only if requests for one of its models pass all filters."""
    name = node.rules.name
    if not is_heard(grid, node):
        return at_rest(grid, node) or unheard(grid, node)
    if not node.rules.takes_inference:
        return Verdict(node=name, filter=NO_INFERENCE)
    if not node.inventory_known:
        return Verdict(node=name, filter=Filter.INVENTORY_UNKNOWN)
    found = node_filter(grid, node)
    if found is not None:
        return with_mark(found, policy)
    return best_of_models(grid, node, policy)


def best_of_models(grid: Grid, node: Node, policy: Policy) -> Verdict:
    """Return a verdict that no filter made, for one of the models; if there is none, the verdict for the
    smallest. Of many models those in memory and the MOST_ASKED smallest are asked about."""
    alone = replace(grid, nodes={node.rules.name: node})
    sizes = {model: row.size_mb for model, row in node.installed.items()}
    smallest = sorted(sizes, key=lambda model: (sizes[model], model))[:MOST_ASKED]
    first: Verdict | None = None
    for model in dict.fromkeys((*smallest, *(each for each in node.resident if each in sizes))):
        found = route(alone, any_request(grid, model)).verdicts[0]
        if not found.filter:
            return found
        first = first or found
    return first or Verdict(node=node.rules.name, filter=NO_MODELS)


def with_mark(found: Verdict, policy: Policy) -> Verdict:
    """Set the limit to the upper mark while it is exceeded, then to the lower one."""
    marks = {
        "hot": (policy.temp_max_mc, policy.temp_return_mc),
        "ram": (policy.ram_max_permille, policy.ram_return_permille),
    }
    upper, lower = marks.get(found.filter, (found.limit, found.limit))
    return replace(found, limit=upper if found.value > upper else lower)


def any_request(grid: Grid, model: str) -> Request:
    """Make the smallest request for this model, with its usual runner."""
    num_ctx, runner = runner_options(grid, model, {})
    return Request(
        entry_id="",
        kind=RequestKind.GENERATE,
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
        num_ctx=num_ctx,
        runner=runner,
    )


def model_rows(grid: Grid) -> list[ModelRow]:
    """List a row per (model, node), by model."""
    return sorted(of_nodes(grid), key=lambda row: (row.model, row.node))


def of_nodes(grid: Grid) -> Iterator[ModelRow]:
    """Yield a row for every model installed or resident on any node."""
    for name, node in grid.nodes.items():
        for model in {**node.installed, **node.resident}:
            on_disk, in_memory = node.installed.get(model), node.resident.get(model)
            described = grid.described.get(on_disk.digest) if on_disk else None
            yield ModelRow(
                model=model,
                node=name,
                installed=on_disk is not None,
                resident=in_memory is not None,
                size_mb=on_disk.size_mb if on_disk else 0,
                resident_mb=in_memory.size_mb if in_memory else 0,
                digest=on_disk.digest if on_disk else in_memory.digest if in_memory else "",
                context_length=in_memory.context_length if in_memory else 0,
                num_ctx=in_memory.num_ctx if in_memory else 0,
                can=described.capabilities if described else (),
                lacked_by=lacked_by(grid, model),
            )


def lacked_by(grid: Grid, model: str) -> tuple[str, ...]:
    """Return the nodes that take requests and do not list a model, by name; none whose list is unknown."""
    return tuple(
        name
        for name, node in sorted(grid.nodes.items())
        if node.rules.takes_inference
        and node.inventory_known
        and same_name(model, node.installed) not in node.installed
    )


def pull_line(model: str, nodes: Sequence[str], may_pull: bool) -> str:
    """Return what brings a model onto these nodes; `may_pull`: the grid may (pull_from)."""
    if may_pull:
        return " ".join([f"orion pull {model}", *(f"--node {name}" for name in nodes)])
    return f"ollama pull {model} on {', '.join(nodes)}"


def ps_rows(grid: Grid) -> PsRows:
    """List open requests, the oldest first, and the models in memory."""
    waiting = sorted(grid.open.items(), key=lambda item: item[1].accepted)
    resident = [
        ResidentRow(
            node=name,
            model=model,
            resident_mb=row.size_mb,
            context_length=row.context_length,
            running=sum(
                isinstance(held, Run) and held.model == model for held in node.assignments.values()
            ),
        )
        for name, node in sorted(grid.nodes.items())
        for model, row in sorted(node.resident.items())
    ]
    return PsRows([request_row(grid, key, request) for key, request in waiting], resident)


def request_row(grid: Grid, key: str, request: Request) -> RequestRow:
    """Make the row of an open request; if it waits, ask routing what for."""
    client, _, request_id = key.partition("/")
    decision = None if request.work_id else route(grid, request)
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
