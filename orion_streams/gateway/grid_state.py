"""The folded table as JSON, for sensors, pages and health checks. Pure; docs/ENDPOINT.md says what each key
means.

All functions take the grid as it is now: `moved_on` to the moment of asking. `silent_ms` is for how long
the router has not looked at its inputs (`protocol/public_row.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.estimates import demand_now
from orion_streams.gateway.page_rows import PageCaller
from orion_streams.gateway.timestamps import timestamp
from orion_streams.gateway.view_models import (
    NO_MODELS,
    NodeRow,
    node_rows,
)
from orion_streams.model.state import Assignment, Grid, Load, Request, Run, client_of
from orion_streams.model.text import held_back, seconds
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, RequestState, WaitKind
from orion_streams.projections import attempts
from orion_streams.projections.requests import state_of
from orion_streams.protocol.public_row import SILENT_MS

MOST = 1_000
"""So many models, requests and runs are listed; `left_out` counts the rest."""
OK, DEGRADED, DOWN = "ok", "degraded", "down"
ROUTER_SILENT, NOBODY = "the router has been silent for", "no node answers requests"
NEVER_RUN = "no router has run on this Redis yet"


class Health(Struct, frozen=True):
    """ok; degraded: some of what is configured does not answer; down: no request is answered now. And why,
    a sentence each."""

    status: str
    reasons: list[str]


class RouterState(Struct, frozen=True):
    """The router: for how long it has not looked at its inputs, and whether that is too long."""

    silent_ms: int
    silent: bool


class ModelState(Struct, frozen=True):
    """A model on the nodes that answer requests: on whose disk and in whose memory it is, the requests that
    wait for it and that are assigned, and of late, in thousandths, halved with time."""

    nodes: list[str]
    resident_on: list[str]
    size_mb: int
    waiting: int
    assigned: int
    demand_milli: int
    can: tuple[str, ...]


class QueueRow(Struct, frozen=True):
    """An open request. `waiting`: the kind of its wait, empty once it is assigned; `waited_ms`: until it
    was sent to its node or began there, if it was."""

    client: str
    id: str
    kind: str
    model: str
    state: str
    node: str
    attempt: int
    priority: int
    waiting: str
    waited_ms: int
    deadline_in_ms: int


class QueueState(Struct, frozen=True):
    """Open requests in numbers, by client too, and the oldest of them as rows. `oldest_ms`: the longest
    that one waits now."""

    open: int
    waiting: int
    assigned: int
    running: int
    oldest_ms: int
    by_client: dict[str, int]
    requests: list[QueueRow]


class RunRow(Struct, frozen=True):
    """What a node was given and has not ended: a run or a load. `state`: sent, running, loading or
    given_up; `age_ms`: since it was sent or began; `expected_ms`: what it takes in all; `cold`: it loads
    its model."""

    node: str
    what: str
    model: str
    state: str
    client: str
    id: str
    attempt: int
    cold: bool
    age_ms: int
    expected_ms: int


class State(Struct, frozen=True):
    """The answer of /orion/v1/state."""

    at: str
    position: int
    revision: int
    status: str
    reasons: list[str]
    router: RouterState
    nodes: dict[str, NodeRow]
    models: dict[str, ModelState]
    queue: QueueState
    runs: list[RunRow]
    left_out: dict[str, int]


def moved_on(grid: Grid, now_ms: int) -> Grid:
    """Return the grid with its clock moved on to now, by the server's clock: so old data counts as old,
    though nothing is committed."""
    passed_ms = max(now_ms - grid.server_ms, 0)
    return replace(grid, at_ms=grid.at_ms + passed_ms, server_ms=grid.server_ms + passed_ms)


def router_silent(silent_ms: int) -> str:
    """Return the sentence for a router that has been silent for too long, else ""."""
    if silent_ms <= SILENT_MS:
        return ""
    return f"{ROUTER_SILENT} {seconds(silent_ms)}: until it is back nothing is decided"


def state(grid: Grid, silent_ms: int) -> State:
    """Return the whole table."""
    nodes = {row.node: row for row in node_rows(grid)}
    models = model_states(grid)
    runs = [run_row(grid, *each) for each in assignments(grid)]
    found = health_of(grid, silent_ms, nodes.values())
    return State(
        at=timestamp(grid.server_ms),
        position=grid.position,
        revision=grid.revision,
        status=found.status,
        reasons=found.reasons,
        router=RouterState(silent_ms, silent_ms > SILENT_MS),
        nodes=nodes,
        models=dict(list(models.items())[:MOST]),
        queue=queue_state(grid),
        runs=runs[:MOST],
        left_out={
            "models": max(len(models) - MOST, 0),
            "requests": max(len(grid.open) - MOST, 0),
            "runs": max(len(runs) - MOST, 0),
        },
    )


def as_told_to(whole: State, caller: PageCaller) -> State:
    """Return the state for somebody: without the ids of other clients' requests."""
    if caller.sees_all:
        return whole
    rows = [each if caller.sees(each.client) else replace(each, id="") for each in whole.queue.requests]
    runs = [each if caller.sees(each.client) else replace(each, id="") for each in whole.runs]
    return replace(whole, queue=replace(whole.queue, requests=rows), runs=runs)


MEANT = (Filter.DRAINED, Filter.QUIET)
"""States of a node that takes nothing because somebody wants it so: nothing is wrong."""


def health(grid: Grid, silent_ms: int) -> Health:
    """Return whether requests are answered, and what stands against it."""
    return health_of(grid, silent_ms, node_rows(grid))


def health_of(grid: Grid, silent_ms: int, rows: Iterable[NodeRow]) -> Health:
    """Return the health by the rows of all nodes; one without inference is missed by nobody here."""
    if not grid.position:
        return Health(DOWN, [NEVER_RUN])
    serving = [row for row in rows if row.inference]
    away = [row for row in serving if row.state != "available"]
    unmeant = [row for row in away if row.state not in MEANT]
    silent = router_silent(silent_ms)
    reasons = [silent] if silent else []
    reasons += [f"{row.node}: {why_away(row)}" for row in (away if len(away) == len(serving) else unmeant)]
    stranded = sum(each.deferred == WaitKind.NO_NODE for each in grid.open.values() if not each.work_id)
    if stranded:
        reasons.append(f"no node takes {stranded} of the waiting requests now")
    if not serving:
        reasons.append(NOBODY)
    if silent or len(away) == len(serving):
        return Health(DOWN, reasons)
    return Health(DEGRADED if reasons else OK, reasons)


def why_away(row: NodeRow) -> str:
    """Say why a node takes nothing now."""
    if row.state == NO_MODELS:
        return "it has no model on disk"
    return held_back(Verdict(node=row.node, filter=Filter(row.state), value=row.value, limit=row.limit))


def model_states(grid: Grid) -> dict[str, ModelState]:
    """Return the models of all nodes that answer requests, by name."""
    on_disk: dict[str, list[str]] = {}
    resident: dict[str, list[str]] = {}
    for name, node in sorted(grid.nodes.items()):
        if node.rules.takes_inference:
            for model in node.installed:
                on_disk.setdefault(model, []).append(name)
            for model in node.resident:
                resident.setdefault(model, []).append(name)
    waiting = Counter(each.model for each in grid.open.values() if not each.work_id)
    assigned = Counter(each.model for each in grid.open.values() if each.work_id)
    states = {}
    for model in sorted(on_disk.keys() | resident.keys()):
        copies = [grid.nodes[each].installed[model] for each in on_disk.get(model, ())]
        known = [grid.described[row.digest] for row in copies if row.digest in grid.described]
        states[model] = ModelState(
            nodes=on_disk.get(model, []),
            resident_on=resident.get(model, []),
            size_mb=max((row.size_mb for row in copies), default=0),
            waiting=waiting[model],
            assigned=assigned[model],
            demand_milli=demand_now(grid, model),
            can=known[0].capabilities if known else (),
        )
    return states


def queue_state(grid: Grid) -> QueueState:
    """Return the open requests, the oldest first."""
    oldest = sorted(grid.open, key=lambda key: grid.open[key].accepted)
    states = Counter(state_of(each) for each in grid.open.values())
    waits_ms = [grid.at_ms - each.accepted_ms for each in grid.open.values() if not each.work_id]
    return QueueState(
        open=len(grid.open),
        waiting=states[RequestState.WAITING],
        assigned=states[RequestState.ASSIGNED],
        running=states[RequestState.RUNNING],
        oldest_ms=max(waits_ms, default=0),
        by_client=dict(sorted(Counter(map(client_of, grid.open)).items())),
        requests=[queue_row(grid, key, grid.open[key]) for key in oldest[:MOST]],
    )


def queue_row(grid: Grid, key: str, request: Request) -> QueueRow:
    """Return the row of an open request, as the table has it: routing is not asked."""
    client, _, request_id = key.partition("/")
    held = held_of(grid, request)
    return QueueRow(
        client=client,
        id=request_id,
        kind=request.kind,
        model=request.model,
        state=state_of(request),
        node=request.node,
        attempt=request.attempt,
        priority=request.priority,
        waiting=request.deferred,
        waited_ms=max((held.since_ms if held is not None else grid.at_ms) - request.accepted_ms, 0),
        deadline_in_ms=request.deadline_ms - grid.at_ms,
    )


def held_of(grid: Grid, request: Request) -> Run | None:
    """Return the request's current attempt, as its node holds it."""
    node = grid.nodes.get(request.node)
    held = node.assignments.get(request.work_id) if node is not None else None
    return held if isinstance(held, Run) else None


def assignments(grid: Grid) -> Iterator[tuple[str, str, Assignment]]:
    """Yield what all nodes hold, with node and work id."""
    for name, node in sorted(grid.nodes.items()):
        for work_id, held in node.assignments.items():
            yield name, work_id, held


def run_row(grid: Grid, node: str, work_id: str, held: Assignment) -> RunRow:
    """Return the row of a run or load."""
    client, _, request_id = held.request.partition("/") if isinstance(held, Run) else ("", "", "")
    return RunRow(
        node=node,
        what="load" if isinstance(held, Load) else "run",
        model=held.model,
        state=attempts.state_of(grid, work_id, held),
        client=client,
        id=request_id,
        attempt=held.attempt if isinstance(held, Run) else 0,
        cold=isinstance(held, Load) or held.cold,
        age_ms=grid.at_ms - held.since_ms,
        expected_ms=held.run_ms,
    )
