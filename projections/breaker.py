"""A node's breaker, as a table that the fold obeys: what failures say of a node.

A request counts once, however often it fails there. What may be the request's own fault counts only when
another node has answered it: one that is refused alike everywhere, or again and again by the only node,
says nothing about the nodes.
"""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Node
from orion_streams.model.vocabulary import AbandonReason, Blame, BreakerState, Code

CLOSED, OPEN = BreakerState.CLOSED, BreakerState.OPEN
PROBING, RAMP = BreakerState.PROBING, BreakerState.RAMP

FAILURE, ANSWER = "a request fails", "a request is answered"
TRANSITIONS: dict[str, tuple[tuple[BreakerState, ...], BreakerState | None]] = {
    FAILURE: ((CLOSED, PROBING, RAMP), None),
    "node.breaker_opened": ((CLOSED, PROBING, RAMP), OPEN),
    "open_ms pass": ((OPEN,), PROBING),
    ANSWER: ((CLOSED, OPEN, PROBING, RAMP), None),
    "node.breaker_closed": ((OPEN, PROBING), RAMP),
}
"""By event: the states in which it counts, and the state after it (None: the same). Closed: all slots
are open. Open: nothing is sent for `open_ms`. Probing: one run. Ramp: one run more with each answer,
until all slots are open again. `breaker_failures` suspects in a row open it, one while it probes; an
answer clears them."""


def state_of(grid: Grid, node: Node) -> BreakerState:
    """Return the state of the node's breaker."""
    if node.opened_ms is not None:
        return OPEN if grid.at_ms - node.opened_ms < node.open_ms else PROBING
    return CLOSED if node.ramp is None else RAMP


DOUBTFUL = Code.OLLAMA_ERROR
"""A refusal that may be the request's own fault."""
NOBODYS = (
    Code.OLLAMA_UNREACHABLE,
    Code.CANCELLED,
    AbandonReason.SILENT,
    AbandonReason.HOT,
    AbandonReason.RAM,
    AbandonReason.CRITICAL,
    AbandonReason.REMOVED,
    AbandonReason.LEFT,
    AbandonReason.DRAINED,
)
"""Ends of attempts that other filters look after, or that we brought about."""


def counts(grid: Grid, node: Node, event: str) -> bool:
    """Whether the table has the event for the state of the node's breaker."""
    return state_of(grid, node) in TRANSITIONS[event][0]


def failed(grid: Grid, event: ev.AttemptFailed | ev.AttemptAbandoned) -> None:
    """Note that an attempt failed on the node, before the request remembers it."""
    key = event.request
    code, blame = (
        (event.code, event.blame) if isinstance(event, ev.AttemptFailed) else (event.reason, Blame.NODE)
    )
    request, node = grid.open.get(key), grid.nodes.get(event.node)
    if request is None or node is None or request.work_id != event.work_id:
        return
    if blame == Blame.NODE and code != DOUBTFUL and code not in NOBODYS:
        suspect(grid, node, key)


def suspect(grid: Grid, node: Node, key: str) -> None:
    """Count a request that failed here, once; an open breaker waits for its probe."""
    known = key in node.suspects or len(node.suspects) >= grid.policy.breaker_failures
    if counts(grid, node, FAILURE) and not known:
        grid.nodes[node.rules.name] = replace(node, suspects=(*node.suspects, key))


def answered(grid: Grid, event: ev.RequestCompleted) -> None:
    """Note an answer: this node works, and one that refused the request is to blame."""
    request, node = grid.open.get(event.request), grid.nodes.get(event.node)
    if request is None or node is None:
        return
    for failure in request.failures:
        other = grid.nodes.get(failure.node)
        if failure.code == DOUBTFUL and failure.node != event.node and other is not None:
            suspect(grid, other, event.request)
    if node.suspects or node.ramp is not None or node.opened_ms is not None:
        grid.nodes[event.node] = replace(node, suspects=(), ramp=ramp_after(node))


def ramp_after(node: Node) -> int | None:
    """Return the answers since the breaker closed; None once all slots are open again. An open one notes
    0: the probe was answered."""
    if node.opened_ms is not None:
        return 0
    if node.ramp is None or node.ramp + 2 >= node.rules.slots:
        return None
    return node.ramp + 1


def opened(grid: Grid, event: ev.BreakerOpened) -> None:
    """Open it: nothing is sent for `open_ms`."""
    node = grid.nodes.get(event.node)
    if node is not None and counts(grid, node, ev.tag_of(event)):
        grid.nodes[event.node] = replace(
            node, opened_ms=grid.at_ms, open_ms=event.open_ms, trips=node.trips + 1, suspects=(), ramp=None
        )


def closed(grid: Grid, event: ev.BreakerClosed) -> None:
    """Close it; the node gets its slots back one by one."""
    node = grid.nodes.get(event.node)
    if node is not None and counts(grid, node, ev.tag_of(event)):
        ramp = 0 if node.rules.slots > 1 else None
        grid.nodes[event.node] = replace(node, opened_ms=None, open_ms=0, trips=0, suspects=(), ramp=ramp)
