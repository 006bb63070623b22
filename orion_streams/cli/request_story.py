"""The story of one request as plain rows, for the screen and for --json. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from orion_streams.cli.log_lines import Line
from orion_streams.decider.queue import Queue
from orion_streams.decider.route import Reject, Route, Wait, route
from orion_streams.decider.standings import Standing, waiting
from orion_streams.model import events as ev
from orion_streams.model.events import tag_of
from orion_streams.model.state import Grid, Request
from orion_streams.model.verdict import Verdict
from orion_streams.projections.requests import state_of


class Choice(Struct, frozen=True):
    """A decision. `kind` routed: to `node`, as this `attempt`; deferred: it waits for `node`, or for any
    node if that is empty. `after_ms` since the request was accepted."""

    position: int
    server_ms: int
    after_ms: int
    attempt: int
    kind: str
    node: str
    verdicts: tuple[Verdict, ...]


class Happening(Struct, frozen=True):
    """Any other event about the request."""

    position: int
    server_ms: int
    after_ms: int
    event: ev.AnyEvent


class RequestOutcome(Struct, frozen=True):
    """The state of the request: done, error, expired, cancelled or rejected; while it is open waiting,
    assigned or running. `code` of an error or rejection; `node` that answered or has it now; `position` of
    the end, 0 while it is open; `after_ms`: when it ended, or its age."""

    state: str
    code: str = ""
    node: str = ""
    position: int = 0
    after_ms: int = 0


class Look(Struct, frozen=True):
    """What routing would decide about a waiting request, `at` now or its end. `kind`: routed (to `node`),
    deferred or rejected. `ahead`: the number of waiting requests that are served before it. `waits_for` and
    `eta_ms` as its client is told them."""

    at: str
    position: int
    kind: str
    node: str
    ahead: int
    verdicts: tuple[Verdict, ...]
    waits_for: str = ""
    eta_ms: int = 0


class Step(Struct, frozen=True):
    """A part of the answered attempt, as the decision expected it and as it was measured; None: unknown."""

    name: str
    expected_ms: int | None
    measured_ms: int | None


class Story(Struct, frozen=True):
    """The whole story. `accepted` is the event, at `accepted_position`; None if the request was rejected,
    or if the event is trimmed. `deadline_in_ms` and `look` are set for an open request."""

    request: str
    client: str
    id: str
    accepted: ev.RequestAccepted | None
    accepted_position: int | None
    accepted_server_ms: int | None
    decisions: list[Choice]
    happenings: list[Happening]
    timing: list[Step]
    outcome: RequestOutcome
    deadline_in_ms: int | None = None
    look: Look | None = None


def story_of(key: str, lines: Sequence[Line], grid: Grid) -> Story:
    """Make the story of the request `key` from all its lines in the log up to the grid."""
    client, _, request_id = key.partition("/")
    first = lines[0] if lines and isinstance(lines[0].event, ev.RequestAccepted) else None
    began_ms = next((line.server_ms for line in lines if line.server_ms), 0)
    decisions, happenings = split(lines, began_ms)
    row = grid.open.get(key)
    return Story(
        request=key,
        client=client,
        id=request_id,
        accepted=first.event if first and isinstance(first.event, ev.RequestAccepted) else None,
        accepted_position=first.position if first else row.accepted if row else None,
        accepted_server_ms=first.server_ms if first else None,
        decisions=decisions,
        happenings=happenings,
        timing=timing(lines),
        outcome=outcome_of(row, happenings, grid),
        deadline_in_ms=row.deadline_ms - grid.at_ms if row else None,
        look=look_at(grid, key, "now") if row and not row.work_id else None,
    )


def split(lines: Sequence[Line], began_ms: int) -> tuple[list[Choice], list[Happening]]:
    """Separate the decisions from all other events."""
    decisions: list[Choice] = []
    happenings: list[Happening] = []
    attempt = 0
    for line in lines:
        where = (line.position, line.server_ms, max(line.server_ms - began_ms, 0))
        match line.event:
            case ev.RequestRouted(_, attempt, node, _, _, verdicts):
                decisions.append(Choice(*where, attempt, "routed", node, verdicts))
            case ev.RequestDeferred(_, _, node, verdicts):
                decisions.append(Choice(*where, attempt + 1, "deferred", node, verdicts))
            case event:
                happenings.append(Happening(*where, event))
    return decisions, happenings


def outcome_of(row: Request | None, happenings: Sequence[Happening], grid: Grid) -> RequestOutcome:
    """Return how the request ended, or its current state."""
    if row is not None:
        return RequestOutcome(state_of(row), node=row.node, after_ms=max(grid.at_ms - row.accepted_ms, 0))
    for each in reversed(happenings):
        position, after_ms = each.position, each.after_ms
        match each.event:
            case ev.RequestCompleted():
                return RequestOutcome("done", "", each.event.node, position, after_ms)
            case ev.RequestFailed():
                return RequestOutcome("error", each.event.code, "", position, after_ms)
            case ev.RequestExpired():
                return RequestOutcome("expired", "", "", position, after_ms)
            case ev.RequestCancelled():
                return RequestOutcome("cancelled", "", "", position, after_ms)
            case ev.RequestRejected() | ev.InputRejected():
                return RequestOutcome("rejected", each.event.code, "", position, after_ms)
            case _:
                continue
    return RequestOutcome("unknown")


def timing(lines: Sequence[Line]) -> list[Step]:
    """Compare expected and measured durations of the attempt that answered; empty without an answer."""
    routed = started = None
    for line in lines:
        match line.event:
            case ev.RequestRouted():
                routed, started = line, None
            case ev.RequestStarted():
                started = line
            case ev.RequestCompleted():
                return steps(routed, started, line.event)
            case _:
                continue
    return []


def steps(routed: Line | None, started: Line | None, done: ev.RequestCompleted) -> list[Step]:
    """List wait until the start, load, prefill, decode, and everything on the node. The expected slow-down
    by heat counts in the last step only."""
    chosen: Verdict | None = None
    waited_ms: int | None = None
    if routed is not None and isinstance(routed.event, ev.RequestRouted):
        chosen = next((each for each in routed.event.verdicts if each.node == done.node), None)
    if routed and started and routed.server_ms and isinstance(started.event, ev.RequestStarted):
        waited_ms = max(started.server_ms - started.event.age_ms - routed.server_ms, 0)
    return [
        Step("wait", chosen.drain_ms if chosen else None, waited_ms),
        Step("load", chosen.load_ms if chosen else None, done.load_ms),
        Step("prefill", chosen.prefill_ms - chosen.cached_ms if chosen else None, done.prefill_ms),
        Step("decode", chosen.decode_ms if chosen else None, done.decode_ms),
        Step("on the node", chosen.run_ms if chosen else None, done.total_ms),
    ]


def look_at(grid: Grid, key: str, at: str) -> Look | None:
    """Return what routing decides about a waiting request, after those that are served before it."""
    queue = Queue(grid)
    for ahead, each in enumerate(queue.order):
        request = grid.open[each]
        decision = route(grid, request, queue.waiting)
        if each == key:
            rejected, routed = isinstance(decision, Reject), isinstance(decision, Route)
            told = (
                waiting(grid, request, ahead, decision) if isinstance(decision, Wait) else Standing(ahead)
            )
            return Look(
                at=at,
                position=grid.position,
                kind="rejected" if rejected else "routed" if routed else "deferred",
                node=getattr(decision, "node", ""),
                ahead=ahead,
                verdicts=decision.verdicts,
                waits_for=told.waits_for,
                eta_ms=told.eta_ms,
            )
        for _ in queue.place(each, request, decision):
            continue  # only to count it as work ahead
    return None


def as_data(story: Story) -> dict[str, Any]:
    """Return the object of --json, with all fields of decisions and events."""
    held: dict[str, Any] = {name: getattr(story, name) for name in story.__struct_fields__}
    held["accepted"] = asdict(story.accepted) if story.accepted is not None else None
    held["decisions"] = [with_verdicts(each) for each in story.decisions]
    held["look"] = with_verdicts(story.look) if story.look is not None else None
    held["happenings"] = [
        {
            "position": each.position,
            "server_ms": each.server_ms,
            "after_ms": each.after_ms,
            "event": tag_of(each.event),
            **asdict(each.event),
        }
        for each in story.happenings
    ]
    return held


def with_verdicts(found: Choice | Look) -> dict[str, Any]:
    """Convert a decision with its verdicts into a dict."""
    return {**asdict(found), "verdicts": [asdict(each) for each in found.verdicts]}
