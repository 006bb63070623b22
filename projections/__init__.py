"""Pure folds of the log into the node-state table: `apply` one event, `fold` many.

`apply` works in place on tables that its caller owns; `evolve` and `fold` copy first. None of them
rejects history or decides anything: an event about something unknown changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections import attempts, breaker, models, nodes, requests, speeds


def evolve(grid: Grid, event: ev.AnyEvent) -> Grid:
    """Return the grid after one event; the given one stays as it is."""
    return fold(grid, (event,))


def fold(grid: Grid, events: Iterable[ev.AnyEvent]) -> Grid:
    """Return the grid after all events, in order; the given one stays as it is."""
    owned = grid.copy()
    for event in events:
        apply(owned, event)
    return owned


def apply(grid: Grid, event: ev.AnyEvent) -> None:  # noqa: PLR0912, PLR0915 - one case per event
    """Fold one event into tables that the caller owns."""
    grid.position += 1
    match event:
        case ev.Committed():
            advance(grid, event)
        case ev.NodeSampled():
            nodes.sampled(grid, event)
        case ev.RequestAccepted():
            speeds.asked(grid, event)
            requests.accepted(grid, event)
        case ev.RequestRouted():
            attempts.routed(grid, event)
            requests.moved(grid, event)
        case ev.RequestStarted():
            attempts.moved(grid, event)
            requests.moved(grid, event)
        case ev.RequestCompleted():
            speeds.completed(grid, event)
            breaker.answered(grid, event)
            models.ran(grid, event)
            attempts.moved(grid, event)
            requests.moved(grid, event)
        case ev.AttemptFailed():
            breaker.failed(grid, event)
            nodes.unreachable(grid, event)
            attempts.moved(grid, event)
            requests.moved(grid, event)
        case ev.AttemptAbandoned():
            breaker.failed(grid, event)
            attempts.moved(grid, event)
            requests.moved(grid, event)
        case ev.AttemptEnded():
            attempts.moved(grid, event)
        case (
            ev.RequestDeferred()
            | ev.BodyLost()
            | ev.RequestFailed()
            | ev.RequestExpired()
            | ev.RequestCancelled()
        ):
            requests.moved(grid, event)
        case ev.RepliesTrimmed():
            requests.replies_trimmed(grid, event)
        case ev.ModelLoaded():
            models.loaded(grid, event)
        case ev.ModelUnloaded():
            models.unloaded(grid, event)
        case ev.UnloadOrdered():
            models.unload_ordered(grid, event)
        case ev.LoadOrdered():
            attempts.load_ordered(grid, event)
        case ev.LoadEnded():
            speeds.loaded(grid, event)
            models.load_ended(grid, event)
            attempts.moved(grid, event)
        case ev.ModelInstalled():
            models.installed(grid, event)
        case ev.ModelRemoved():
            models.removed(grid, event)
        case ev.NodeBackedOff():
            nodes.backed_off(grid, event)
        case ev.NodeReturned():
            nodes.returned(grid, event)
        case ev.BreakerOpened():
            breaker.opened(grid, event)
        case ev.BreakerClosed():
            breaker.closed(grid, event)
        case ev.PolicyChanged():
            nodes.policy_changed(grid, event)
        case ev.InputRejected() | ev.RequestRejected() | ev.RequestResent():
            pass
        case _:
            assert_never(event)


def advance(grid: Grid, head: ev.Committed) -> None:
    """Move grid time by what the server's clock says, never back and at most `max_step_ms`: the excess
    of a clock that jumps is forgotten."""
    grid.before_ms = grid.at_ms
    if grid.number:
        step_ms = head.server_ms - grid.server_ms
        grid.at_ms += min(max(step_ms, 0), grid.policy.max_step_ms)
    grid.number = head.number
    grid.server_ms = head.server_ms
    requests.forget(grid)
