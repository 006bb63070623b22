"""The life of a request, as a table that the fold obeys: every accepted one reaches exactly one terminal
state.

An event that the table does not have for a request's state changes nothing: history is never rejected.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import assert_never

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import (
    MAX_FAILURES,
    Closed,
    Failure,
    Grid,
    Request,
    client_of,
    parse_stream_id,
)
from orion_streams.model.vocabulary import AT_REST, Blame, RequestState, WaitKind
from orion_streams.projections.attempts import fence

NUM_CTX = "options.num_ctx"
WAITING, ASSIGNED, RUNNING = RequestState.WAITING, RequestState.ASSIGNED, RequestState.RUNNING
OPEN = (WAITING, ASSIGNED, RUNNING)

LifeEvent = (
    ev.RequestDeferred
    | ev.RequestRouted
    | ev.RequestStarted
    | ev.AttemptFailed
    | ev.AttemptAbandoned
    | ev.BodyLost
    | ev.RequestCompleted
    | ev.RequestFailed
    | ev.RequestExpired
    | ev.RequestCancelled
)
TRANSITIONS: dict[type[LifeEvent], tuple[tuple[RequestState, ...], RequestState | None]] = {
    ev.RequestDeferred: ((WAITING,), WAITING),
    ev.RequestRouted: ((WAITING,), ASSIGNED),
    ev.RequestStarted: ((ASSIGNED,), RUNNING),
    ev.AttemptFailed: ((ASSIGNED, RUNNING), WAITING),
    ev.AttemptAbandoned: ((ASSIGNED, RUNNING), WAITING),
    ev.BodyLost: (OPEN, None),
    ev.RequestCompleted: (OPEN, RequestState.DONE),
    ev.RequestFailed: (OPEN, RequestState.ERROR),
    ev.RequestExpired: (OPEN, RequestState.EXPIRED),
    ev.RequestCancelled: (OPEN, RequestState.CANCELLED),
}
"""By event: the states in which it counts, and the state after it (None: the same). `request.accepted`
opens a request as waiting; a terminal state is forgotten after `dedupe_keep` ends or `dedupe_keep_ms`."""


def state_of(request: Request) -> RequestState:
    """Return the state of an open request."""
    if not request.work_id:
        return WAITING
    return RUNNING if request.started else ASSIGNED


def accepted(grid: Grid, event: ev.RequestAccepted) -> None:
    """Open a request."""
    grid.open[event.request] = row_of(grid, event)


def row_of(grid: Grid, event: ev.RequestAccepted) -> Request:
    """Return the row of an accepted request; its deadline counts from when its entry was written."""
    began_ms = grid.at_ms - event.age_ms
    return Request(
        entry_id=event.entry_id,
        kind=event.kind,
        model=event.model,
        tier=event.tier,
        priority=event.priority,
        stream=event.stream,
        session=event.session,
        accepted=grid.position,
        accepted_ms=began_ms,
        deadline_ms=began_ms + event.deadline_ms,
        body_bytes=event.body_bytes,
        prompt_tokens=event.prompt_tokens,
        num_predict=event.num_predict,
        num_ctx=event.num_ctx,
        runner=event.runner,
        ignored=event.ignored,
        needs=event.needs,
        notify=event.notify,
        parts=event.parts,
    )


def moved(grid: Grid, event: LifeEvent) -> None:
    """Move a request to its next state, as the table says."""
    request = grid.open.get(event.request)
    if request is None or not counts(request, event):
        return
    match event:
        case ev.RequestDeferred():
            row = replace(request, deferred=event.kind)
        case ev.RequestRouted():
            row = replace(
                request,
                attempt=event.attempt,
                node=event.node,
                work_id=fence(event),
                deferred=WaitKind.NONE,
                ignored=ignored_on(request, event),
            )
        case ev.RequestStarted():
            row = replace(request, started=True)
        case ev.AttemptFailed():
            row = waiting_again(
                request, Failure(event.node, event.code, event.blame, event.source, grid.at_ms)
            )
        case ev.AttemptAbandoned():
            row = waiting_again(request, Failure(event.node, event.reason, Blame.NODE, at_ms=grid.at_ms))
        case ev.BodyLost():
            row = replace(request, body_lost=True)
        case ev.RequestCompleted() | ev.RequestFailed() | ev.RequestExpired() | ev.RequestCancelled():
            close(grid, event)
            return
        case _:
            assert_never(event)
    grid.open[event.request] = row


def ignored_on(request: Request, event: ev.RequestRouted) -> tuple[str, ...]:
    """Return what does not count of the request: also its context, where its node gives it less."""
    is_less = 0 < event.num_ctx < request.num_ctx and NUM_CTX not in request.ignored
    return (*request.ignored, NUM_CTX) if is_less else request.ignored


def counts(request: Request, event: LifeEvent) -> bool:
    """Whether the table has the event for the request's state, and for its current attempt."""
    is_late = (
        isinstance(event, ev.RequestStarted | ev.AttemptFailed | ev.AttemptAbandoned)
        and event.work_id != request.work_id
    )
    return not is_late and state_of(request) in TRANSITIONS[type(event)][0]


def waiting_again(request: Request, failure: Failure) -> Request:
    """Return the request without a current attempt, one failure richer."""
    failures = (*request.failures, failure)[-MAX_FAILURES:]
    return replace(request, node="", work_id="", started=False, failures=failures)


def close(
    grid: Grid,
    event: ev.RequestCompleted | ev.RequestFailed | ev.RequestExpired | ev.RequestCancelled,
) -> None:
    """Remember the terminal state and where its reply stands."""
    del grid.open[event.request]
    state = RequestState(str(TRANSITIONS[type(event)][1]))
    rows = grid.closed.setdefault(client_of(event.request), {})
    rows[event.request] = Closed(state, event.reply_id, grid.at_ms)


def rest(grid: Grid, step_ms: int) -> None:
    """Count the time of those that wait for nodes at rest, or for what is unknown since the clock jumped;
    where only quiet hours or that jump are in the way, it does not count for the deadline, up to
    `max_rest_ms` of one request in all."""
    for key, row in grid.open.items():
        if (row.deferred in AT_REST or grid.jumped) and not row.work_id:
            is_put_off = row.deferred == WaitKind.QUIET or grid.jumped
            left_ms = max(grid.policy.max_rest_ms - row.put_off_ms, 0)
            put_off_ms = min(step_ms, left_ms) if is_put_off else 0
            grid.open[key] = replace(
                row,
                rested_ms=row.rested_ms + step_ms,
                put_off_ms=row.put_off_ms + put_off_ms,
                deadline_ms=row.deadline_ms + put_off_ms,
            )


def forget(grid: Grid) -> None:
    """Drop remembered ids beyond `dedupe_keep` of a client in number, or `dedupe_keep_ms` in age, oldest
    first: however much one client asks, the others' ids stay."""
    policy = grid.policy
    horizon_ms = grid.at_ms - policy.dedupe_keep_ms
    for rows in grid.closed.values():
        surplus = max(len(rows) - policy.dedupe_keep, 0)
        gone = list(islice(rows, surplus))
        if horizon_ms > 0:
            rest = islice(rows.items(), surplus, None)
            gone += [key for key, _ in takewhile(lambda each: each[1].closed_ms < horizon_ms, rest)]
        for key in gone:
            del rows[key]


def replies_trimmed(grid: Grid, event: ev.RepliesTrimmed) -> None:
    """Forget the ids whose terminal reply is about to go."""
    floor, rows = parse_stream_id(event.min_id), grid.closed.get(event.client, {})
    for key in [key for key, row in rows.items() if parse_stream_id(row.reply_id) < floor]:
        del rows[key]
