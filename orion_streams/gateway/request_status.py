"""What the table knows of one request, for the client that asked: `GET /orion/v1/requests/ID`. Pure."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.queue import Queue, verdict_on
from orion_streams.decider.route import Reject, remaining_ms, route
from orion_streams.gateway.grid_state import held_of
from orion_streams.gateway.view_models import request_row
from orion_streams.model.state import Grid, Request


class RequestStatus(Struct, frozen=True, kw_only=True):
    """The answer of /orion/v1/requests/ID.

    While it waits: `position` among the waiting (1: the next), `waiting` busy or no_node, `waiting_for` the
    node it waits for, `reasons` the filter of each that does not take it. Once it is assigned: `node`,
    `attempt`, and `warm`, whether its model was in memory. `eta_ms`: until its end, if that can be told.
    Once it has ended: `state` done, error, expired or cancelled, and `ended_ms_ago`.
    """

    id: str
    state: str
    kind: str = ""
    model: str = ""
    node: str = ""
    attempt: int = 0
    position: int = 0
    waiting: str = ""
    waiting_for: str = ""
    reasons: dict[str, str] = {}
    failures: list[str] = []
    warm: bool | None = None
    eta_ms: int | None = None
    age_ms: int = 0
    deadline_in_ms: int = 0
    ended_ms_ago: int | None = None


def request_status(grid: Grid, client: str, request_id: str) -> RequestStatus | None:
    """Return what is known of a client's own request, open or closed of late; None if nothing is, or it is
    another client's."""
    key = f"{client}/{request_id}"
    request, ended = grid.open.get(key), grid.find_closed(key)
    if request is not None:
        return open_status(grid, key, request)
    if ended is not None:
        ago_ms = grid.at_ms - ended.closed_ms
        return RequestStatus(id=request_id, state=ended.state, ended_ms_ago=ago_ms)
    return None


def open_status(grid: Grid, key: str, request: Request) -> RequestStatus:
    """Return the status of an open request."""
    row, held = request_row(grid, key, request), held_of(grid, request)
    position = 0 if request.work_id else Queue(grid).order.index(key) + 1
    return RequestStatus(
        id=row.id,
        state=row.state,
        kind=row.kind,
        model=row.model,
        node=row.node,
        attempt=row.attempt,
        position=position,
        waiting=row.waiting,
        waiting_for=row.waiting_for,
        reasons=row.reasons,
        failures=row.failures,
        warm=not held.cold if held is not None else None,
        eta_ms=remaining_ms(grid, held) if held is not None else eta_ms(grid, request, position),
        age_ms=row.age_ms,
        deadline_in_ms=row.deadline_in_ms,
    )


def eta_ms(grid: Grid, request: Request, position: int) -> int | None:
    """Return the expected time to the end of a waiting request that is the next; of others it depends on
    those before them."""
    decision = route(grid, request) if position == 1 else None
    if decision is None or isinstance(decision, Reject) or not decision.node:
        return None
    found = verdict_on(decision.node, decision.verdicts)
    return found.drain_ms + found.run_ms
