"""The life of a request: every accepted one reaches exactly one terminal state.

state      event                        next state
-          request.accepted             waiting
waiting    request.deferred             waiting
waiting    request.routed               assigned
assigned   request.started              running
assigned   attempt.failed, .abandoned   waiting
running    attempt.failed, .abandoned   waiting
assigned   request.completed            closed: done
running    request.completed            closed: done
any open   request.failed               closed: error
any open   request.expired              closed: expired
any open   request.cancelled            closed: cancelled
closed     (forgotten after dedupe_keep entries or dedupe_keep_ms)
"""

from __future__ import annotations

from itertools import islice, takewhile

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
from orion_streams.model.vocabulary import Blame, Outcome, WaitKind
from orion_streams.projections.nodes import fence

Terminal = ev.RequestCompleted | ev.RequestFailed | ev.RequestExpired | ev.RequestCancelled


def state_of(request: Request) -> str:
    """The state in the table above."""
    if not request.work_id:
        return "waiting"
    return "running" if request.started else "assigned"


def accepted(grid: Grid, event: ev.RequestAccepted) -> None:
    """A new open request."""
    grid.open[event.request] = row_of(grid, event)


def row_of(grid: Grid, event: ev.RequestAccepted) -> Request:
    """The request's row; its deadline counts from when its entry was written."""
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
    )


def routed(grid: Grid, event: ev.RequestRouted) -> None:
    """The request has a current attempt."""
    request = grid.open.get(event.request)
    if request is not None:
        grid.open[event.request] = replace(
            request, attempt=event.attempt, node=event.node, work_id=fence(event), deferred=WaitKind.NONE
        )


def started(grid: Grid, event: ev.RequestStarted) -> None:
    """The current attempt runs."""
    request = grid.open.get(event.request)
    if request is not None and request.work_id == event.work_id:
        grid.open[event.request] = replace(request, started=True)


def deferred(grid: Grid, event: ev.RequestDeferred) -> None:
    """It waits, and what kind of wait was written down."""
    request = grid.open.get(event.request)
    if request is not None:
        grid.open[event.request] = replace(request, deferred=event.kind)


def attempt_failed(grid: Grid, event: ev.AttemptFailed) -> None:
    """Back to waiting, one failure richer."""
    request = grid.open.get(event.request)
    if request is not None and request.work_id == event.work_id:
        failure = Failure(event.node, event.code, event.blame, event.source)
        grid.open[event.request] = waiting_again(request, failure)


def abandoned(grid: Grid, event: ev.AttemptAbandoned) -> None:
    """Back to waiting, if it was the current attempt."""
    request = grid.open.get(event.request)
    if request is not None and request.work_id == event.work_id:
        failure = Failure(event.node, event.reason, Blame.NODE)
        grid.open[event.request] = waiting_again(request, failure)


def waiting_again(request: Request, failure: Failure) -> Request:
    """The request without a current attempt."""
    failures = (*request.failures, failure)[-MAX_FAILURES:]
    return replace(request, node="", work_id="", started=False, failures=failures)


def body_lost(grid: Grid, event: ev.BodyLost) -> None:
    """Its entry is gone: no further attempt is possible."""
    request = grid.open.get(event.request)
    if request is not None:
        grid.open[event.request] = replace(request, body_lost=True)


def closed(grid: Grid, event: Terminal, state: Outcome) -> None:
    """The one terminal state."""
    if grid.open.pop(event.request, None) is not None:
        rows = grid.closed.setdefault(client_of(event.request), {})
        rows[event.request] = Closed(state, event.reply_id, grid.at_ms)


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
