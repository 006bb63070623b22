"""The life of what a node is assigned, as a table that the fold obeys: it takes its slot, or its memory,
from the moment of the decision until its end is known.

An event that the table does not have for an assignment's state changes nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Assignment, Grid, Load, Node, Run, without
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, AttemptState

SENT, RUNNING, LOADING = AttemptState.SENT, AttemptState.RUNNING, AttemptState.LOADING
GIVEN_UP, ENDED = AttemptState.GIVEN_UP, AttemptState.ENDED

AttemptEvent = (
    ev.RequestStarted
    | ev.RequestCompleted
    | ev.AttemptFailed
    | ev.AttemptAbandoned
    | ev.AttemptEnded
    | ev.LoadEnded
)
GONE = "attempt.abandoned gone"
"""How the table calls an attempt that health no longer lists; one that is abandoned for another reason
may still be running."""
TRANSITIONS: dict[str, tuple[tuple[AttemptState, ...], AttemptState]] = {
    "request.started": ((SENT,), RUNNING),
    "request.completed": ((SENT, RUNNING, GIVEN_UP), ENDED),
    "attempt.failed": ((SENT, RUNNING, GIVEN_UP), ENDED),
    "attempt.abandoned": ((SENT, RUNNING), GIVEN_UP),
    GONE: ((SENT, RUNNING, GIVEN_UP, LOADING), ENDED),
    "attempt.ended": ((SENT, RUNNING, GIVEN_UP), ENDED),
    "model.load_ended": ((LOADING,), ENDED),
}
"""By event: the states in which it counts, and the state after it. `request.routed` begins as sent, and
`model.load_ordered` as loading. An attempt is given up as soon as its request has ended or has another
one."""


def state_of(grid: Grid, work_id: str, held: Assignment) -> AttemptState:
    """Return the state of what a node is assigned."""
    if isinstance(held, Load):
        return LOADING
    request = grid.open.get(held.request)
    if request is None or request.work_id != work_id:
        return GIVEN_UP
    return RUNNING if held.started else SENT


def routed(grid: Grid, event: ev.RequestRouted) -> None:
    """Assign an attempt: it takes a slot from the moment of the decision."""
    node, request = grid.nodes.get(event.node), grid.open.get(event.request)
    if node is None or request is None:
        return
    chosen = next((each for each in event.verdicts if each.node == event.node), Verdict(node=event.node))
    held = Run(
        request=event.request,
        attempt=event.attempt,
        model=request.model,
        run_ms=chosen.run_ms,
        since_ms=grid.at_ms,
        cold=chosen.load_ms > 0,
        alone=not node.assignments,
        load_ms=chosen.load_ms,
        reserve_mb=chosen.reserve_mb,
        num_ctx=event.num_ctx or request.num_ctx,
        runner=request.runner,
        cached=chosen.cached_ms > 0,
    )
    grid.nodes[event.node] = assigned(node, fence(event), held, grid.at_ms)


def load_ordered(grid: Grid, event: ev.LoadOrdered) -> None:
    """Assign a load: its memory is set aside until it has ended."""
    node = grid.nodes.get(event.node)
    if node is None:
        return
    held = Load(
        model=event.model,
        run_ms=event.load_ms,
        since_ms=grid.at_ms,
        alone=not node.assignments,
        reserve_mb=event.reserve_mb,
        num_ctx=event.num_ctx,
        runner=event.runner,
    )
    row = assigned(node, event.work_id or f"undecided load {event.model}", held, grid.at_ms)
    grid.nodes[event.node] = replace(row, load_failed_ms=without(row.load_failed_ms, event.model))


def assigned(node: Node, work_id: str, held: Assignment, at_ms: int) -> Node:
    """Return the node with one more assignment; nothing that it has is alone any more."""
    others = {key: replace(each, alone=False) for key, each in node.assignments.items()}
    return replace(node, assignments={**others, work_id: held}, used_ms={**node.used_ms, held.model: at_ms})


def fence(event: ev.RequestRouted) -> str:
    """Return the attempt's key; a decision that is not committed yet has no work id."""
    return event.work_id or f"undecided {event.request}"


def moved(grid: Grid, event: AttemptEvent) -> None:
    """Move what the event tells of to its next state, as the table says."""
    node = node_of(grid, event)
    held = node.assignments.get(event.work_id) if node is not None else None
    if node is None or held is None:
        return
    states, after = TRANSITIONS[trigger_of(event)]
    if state_of(grid, event.work_id, held) not in states:
        return
    if after is ENDED:
        node = replace(node, assignments=without(node.assignments, event.work_id))
    if isinstance(event, ev.RequestStarted) and isinstance(held, Run):
        begun = replace(held, started=True, since_ms=grid.at_ms - event.age_ms)
        node = replace(node, assignments={**node.assignments, event.work_id: begun})
    grid.nodes[node.rules.name] = node


def node_of(grid: Grid, event: AttemptEvent) -> Node | None:
    """Return the node that the event tells of."""
    if not isinstance(event, ev.RequestStarted):
        return grid.nodes.get(event.node)
    request = grid.open.get(event.request)
    return grid.nodes.get(request.node) if request is not None else None


def trigger_of(event: AttemptEvent) -> str:
    """Return how the table calls the event."""
    if isinstance(event, ev.AttemptAbandoned) and event.reason == AbandonReason.GONE:
        return GONE
    return ev.tag_of(event)
