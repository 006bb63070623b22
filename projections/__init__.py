"""Pure folds of the log into the node-state table: `apply` one event, `fold` many.

`apply` works in place on tables that its caller owns; `evolve` and `fold` copy first. None of them
rejects history or decides anything: an event about something unknown changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections import attempts, breaker, clients, models, nodes, requests, speeds


def evolve(grid: Grid, event: ev.AnyEvent) -> Grid:
    """Return the grid after one event; the given one stays as it is."""
    return fold(grid, (event,))


def fold(grid: Grid, events: Iterable[ev.AnyEvent]) -> Grid:
    """Return the grid after all events, in order; the given one stays as it is."""
    owned = grid.copy()
    for event in events:
        apply(owned, event)
    return owned


def apply(grid: Grid, event: ev.AnyEvent) -> None:
    """Fold one event into tables that the caller owns."""
    grid.position += 1
    if isinstance(event, ev.Committed):
        advance(grid, event)
        return
    for fold_into in FOLDS[type(event)]:
        fold_into(grid, event)


FOLDS: dict[type[ev.Event], tuple[Callable[[Grid, Any], None], ...]] = {
    ev.PolicyChanged: (nodes.policy_changed,),
    ev.NodeSampled: (nodes.sampled,),
    ev.NodeBackedOff: (nodes.backed_off,),
    ev.NodeReturned: (nodes.returned,),
    ev.NodeDrained: (nodes.drained,),
    ev.NodeResumed: (nodes.resumed,),
    ev.ZoneChanged: (nodes.zone_changed,),
    ev.BreakerOpened: (breaker.opened,),
    ev.BreakerClosed: (breaker.closed,),
    ev.DiskOrdered: (nodes.disk_ordered,),
    ev.DiskEnded: (nodes.disk_ended, models.disk_ended),
    ev.ModelInstalled: (models.installed,),
    ev.ModelRemoved: (models.removed,),
    ev.ModelDescribed: (models.described,),
    ev.ModelLoaded: (models.loaded,),
    ev.ModelUnloaded: (models.unloaded,),
    ev.UnloadOrdered: (models.unload_ordered,),
    ev.LoadOrdered: (attempts.load_ordered,),
    ev.LoadEnded: (speeds.loaded, models.load_ended, attempts.moved),
    ev.RequestAccepted: (speeds.asked, requests.accepted),
    ev.RequestRouted: (attempts.routed, requests.moved),
    ev.RequestDeferred: (requests.moved,),
    ev.RequestStarted: (attempts.moved, requests.moved),
    ev.AttemptFailed: (
        breaker.failed, nodes.failed, nodes.unreachable, nodes.handed_back, attempts.moved, requests.moved,
    ),
    ev.AttemptAbandoned: (breaker.failed, nodes.failed, attempts.moved, requests.moved),
    ev.AttemptEnded: (attempts.moved,),
    ev.BodyLost: (requests.moved,),
    ev.RequestCompleted: (
        speeds.completed, breaker.answered, models.ran, attempts.moved, requests.moved,
    ),
    ev.RequestFailed: (requests.moved,),
    ev.RequestExpired: (requests.moved,),
    ev.RequestCancelled: (requests.moved,),
    ev.RepliesTrimmed: (requests.replies_trimmed,),
    ev.InputRejected: (),
    ev.RequestRejected: (),
    ev.RequestResent: (),
    ev.RequestsListed: (),
    ev.ClientAdded: (clients.added,),
    ev.ClientRemoved: (clients.removed,),
}  # fmt: skip
"""Which folds an event reaches, in this order: each reads what those before it have left."""


def advance(grid: Grid, head: ev.Committed) -> None:
    """Move grid time by what the server's clock says, never back and at most `max_step_ms`: the excess
    of a clock that jumps is forgotten. Where it goes back, or on by more than `stale_ms`, nobody has been
    heard for who knows how long."""
    grid.before_ms = grid.at_ms
    if grid.number:
        step_ms = head.server_ms - grid.server_ms
        grid.at_ms += min(max(step_ms, 0), grid.policy.max_step_ms)
        requests.rest(grid, grid.at_ms - grid.before_ms)
        grid.jumped = False
        if not 0 <= step_ms <= grid.policy.stale_ms:
            nodes.jumped(grid)
    grid.number = head.number
    grid.server_ms = head.server_ms
    requests.forget(grid)
