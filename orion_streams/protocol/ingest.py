"""Entries of the input streams to events. Pure: what an entry means depends on the grid and the entry.

Nothing is dropped silently and nothing loops: an entry that cannot be read becomes `input.rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import structs

from orion_streams.model import events as ev
from orion_streams.model.measured import Usage
from orion_streams.model.state import Grid, Load, Request, Run
from orion_streams.model.vocabulary import Blame
from orion_streams.protocol import agent_entries
from orion_streams.protocol.admission import take_request
from orion_streams.protocol.disk_entries import take_disk_result
from orion_streams.protocol.input_entries import NOTHING, Entry, Taken, Token, size_of, unreadable
from orion_streams.protocol.node_health import take_health


def take(
    grid: Grid,
    entry: Entry,
    *,
    results_cursor: str,
    relayed: Mapping[str, int],
    entry_max_bytes: int,
    answer_max_bytes: int,
    drain_ms: int,
    pull_from: tuple[str, ...] = (),
) -> Taken:
    """Return what the entry means to this grid. `results_cursor`: the last entry taken of the node's
    results. `relayed`: the last token passed on of each open attempt. An agent's entry is a head and at
    most an answer. `drain_ms`: what runs on a node that is drained has so long to end.
    `pull_from`: registries that models may come from."""
    match entry.source:
        case "requests":
            return take_request(grid, entry, entry_max_bytes, drain_ms, pull_from)
        case "health":
            return take_health(grid, entry, results_cursor, entry_max_bytes + answer_max_bytes)
        case "results":
            return take_result(grid, entry, relayed, entry_max_bytes + answer_max_bytes)
        case _:
            raise ValueError(f"no such input: {entry.source}")


PASSED_ON = ("tokens", "progress")
"""Results that never become an event."""


def take_result(grid: Grid, entry: Entry, relayed: Mapping[str, int], max_bytes: int) -> Taken:
    """Take an agent's result. Only that of the current attempt, by its fence, moves its request."""
    try:
        head = agent_entries.decode_result(entry.fields.get(b"head", b""))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return unreadable(entry)
    if size_of(entry) > max_bytes:  # a token never becomes an event
        return NOTHING if head.op in PASSED_ON else unreadable(entry, "too_large")
    if not head.request:
        return take_disk_result(grid, entry, head) or take_load(grid, entry.owner, head)
    request = grid.open.get(head.request)
    if request is None or request.work_id != head.work_id or request.node != entry.owner:
        return take_late_result(grid, entry.owner, head)
    match head.op:
        case "tokens":
            if head.seq != relayed.get(head.work_id, 0) + 1:
                return NOTHING  # resent, or the one before it is still to come again
            return Taken(token=piece_of(entry, head, request))
        case "started":
            started = ev.RequestStarted(head.request, request.attempt, head.work_id, age_ms=entry.age_ms)
            return NOTHING if request.started else Taken((started,))
        case "completed":
            completed = completion(grid, entry.owner, head, request)
            return Taken((completed,), answer=entry.fields)
        case "failed":
            failed = ev.AttemptFailed(
                request=head.request,
                attempt=request.attempt,
                node=entry.owner,
                work_id=head.work_id,
                code=head.code,
                blame=Blame(head.blame),
                source=entry.id,
            )
            return Taken((failed,))
        case "progress":
            return NOTHING


def piece_of(entry: Entry, head: agent_entries.ResultHead, request: Request) -> Token:
    """Return the piece of an answer that an entry holds."""
    names = (name.encode() for name in agent_entries.PIECE_FIELDS)
    fields = {name: value for name in names if (value := entry.fields.get(name))}
    return Token(head.request, request.attempt, head.work_id, head.seq, fields)


def take_load(grid: Grid, node: str, head: agent_entries.ResultHead) -> Taken:
    """Take the end of an ordered load, once."""
    known = grid.nodes.get(node)
    held = known.assignments.get(head.work_id) if known is not None else None
    if not isinstance(held, Load) or head.op not in ("completed", "failed"):
        return NOTHING
    ended = ev.LoadEnded(
        node=node,
        model=held.model,
        work_id=head.work_id,
        ok=head.op == "completed",
        load_ms=head.load_ms,
        alone=held.alone,
    )
    return Taken((ended,))


def take_late_result(grid: Grid, node: str, head: agent_entries.ResultHead) -> Taken:
    """Take a result of an attempt that was given up: it only frees the slot, once."""
    known = grid.nodes.get(node)
    over = head.op in ("completed", "failed")
    if not over or known is None or not isinstance(known.assignments.get(head.work_id), Run):
        return NOTHING
    outcome = head.code or head.op
    return Taken((ev.AttemptEnded(head.request, head.attempt, node, head.work_id, outcome),))


def completion(
    grid: Grid, node: str, head: agent_entries.ResultHead, request: Request
) -> ev.RequestCompleted:
    """Return the terminal event of an answer."""
    known = grid.nodes.get(node)
    held = known.assignments.get(head.work_id) if known is not None else None
    usage = Usage.of(head)
    if not usage.done_reason:
        usage = structs.replace(usage, done_reason="stop")
    return ev.RequestCompleted(
        request=head.request,
        attempt=request.attempt,
        node=node,
        work_id=head.work_id,
        **usage.fields(),
        cold=isinstance(held, Run) and held.cold,
        alone=held is not None and held.alone,
    )
