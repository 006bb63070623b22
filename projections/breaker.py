"""What failures say of a node. A request counts once, however often it fails there. What may be the
request's own fault counts only when another node has answered it: one that is refused alike everywhere, or
again and again by the only node, says nothing about the nodes.

state      event                                   next state
closed     breaker_failures requests in a row fail  open, for open_ms (node.breaker_opened)
open       open_ms pass                            probing: one run at a time
probing    it fails                                open, for twice as long
any        an answer                               closed (node.breaker_closed); slots open one by one
"""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Node
from orion_streams.model.vocabulary import AbandonReason, Blame, Code

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
)
"""Ends of attempts that other filters look after, or that we brought about."""


def failed(grid: Grid, event: ev.AttemptFailed | ev.AttemptAbandoned) -> None:
    """An attempt failed on the node, before the request remembers it."""
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
    """One more request failed here; an open breaker waits for its probe."""
    waits = node.opened_ms is not None and grid.at_ms - node.opened_ms < node.open_ms
    if key not in node.suspects and not waits and len(node.suspects) < grid.policy.breaker_failures:
        grid.nodes[node.rules.name] = replace(node, suspects=(*node.suspects, key))


def answered(grid: Grid, event: ev.RequestCompleted) -> None:
    """An answer: this node works, and one that refused the request is to blame."""
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
    """Answers since the breaker closed; None once all slots are open again. An open one notes 0: the
    probe was answered."""
    if node.opened_ms is not None:
        return 0
    if node.ramp is None or node.ramp + 2 >= node.rules.slots:
        return None
    return node.ramp + 1


def opened(grid: Grid, event: ev.BreakerOpened) -> None:
    """From now on nothing, for `open_ms`."""
    node = grid.nodes.get(event.node)
    if node is not None:
        grid.nodes[event.node] = replace(
            node, opened_ms=grid.at_ms, open_ms=event.open_ms, trips=node.trips + 1, suspects=(), ramp=None
        )


def closed(grid: Grid, name: str) -> None:
    """The node works again; it gets its slots back one by one."""
    node = grid.nodes.get(name)
    if node is not None:
        ramp = 0 if node.rules.slots > 1 else None
        grid.nodes[name] = replace(node, opened_ms=None, open_ms=0, trips=0, suspects=(), ramp=ramp)
