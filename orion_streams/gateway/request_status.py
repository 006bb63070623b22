"""What the table knows of one request, for the client that asked: `GET /orion/v1/requests/ID`. Pure."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.route import remaining_ms
from orion_streams.decider.standings import Standing, standings
from orion_streams.gateway.grid_state import held_of
from orion_streams.gateway.view_models import request_row
from orion_streams.model.state import Grid, Request


class RequestStatus(Struct, frozen=True, kw_only=True):
    """The answer of /orion/v1/requests/ID.

    Until it runs: `waiting`, `waits_for`, `eta_ms` and `eta_high_ms` as in an `accepted` reply. While it
    waits: `waiting_for` the node it waits for, `reasons` the filter of each that does not take it. Once it
    is assigned: `node`, `attempt`, and `warm`, whether its model was in memory; once it runs: `left_ms`.
    Once it has ended: `state` done, error, expired or cancelled, and `ended_ms_ago`.
    """

    id: str
    state: str
    kind: str = ""
    model: str = ""
    node: str = ""
    attempt: int = 0
    waiting: int = 0
    waits_for: str = ""
    eta_ms: int = 0
    eta_high_ms: int = 0
    waiting_for: str = ""
    reasons: dict[str, str] = {}
    failures: list[str] = []
    warm: bool | None = None
    left_ms: int | None = None
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
    standing = Standing() if request.started else standings(grid, {key})[key]
    return RequestStatus(
        id=row.id,
        state=row.state,
        kind=row.kind,
        model=row.model,
        node=row.node,
        attempt=row.attempt,
        waiting=standing.waiting,
        waits_for=standing.waits_for,
        eta_ms=standing.eta_ms,
        eta_high_ms=standing.eta_high_ms,
        waiting_for=row.waiting_for,
        reasons=row.reasons,
        failures=row.failures,
        warm=not held.cold if held is not None else None,
        left_ms=remaining_ms(grid, held) if held is not None and request.started else None,
        age_ms=row.age_ms,
        deadline_in_ms=row.deadline_in_ms,
    )
