"""What was answered at one boundary of the log, by what it is about, so that two answers can be compared.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.queue import placements
from orion_streams.decider.route import route
from orion_streams.model import events as ev
from orion_streams.model.events import Verdict
from orion_streams.model.state import Grid
from orion_streams.projections import apply
from orion_streams.replay.explain_change import Answer

SAFETY = (ev.NodeBackedOff, ev.NodeReturned, ev.BreakerOpened, ev.BreakerClosed)
"""Answers about a node itself."""
EARLY = (*SAFETY, ev.AttemptAbandoned)
"""What is answered before the waiting requests are looked at."""
KINDS: dict[type[ev.Event], str] = {
    ev.RequestRouted: "route",
    ev.RequestDeferred: "wait",
    ev.RequestFailed: "end",
    ev.RequestExpired: "end",
    ev.AttemptAbandoned: "give_up",
    ev.UnloadOrdered: "order",
    ev.LoadOrdered: "order",
    ev.NodeBackedOff: "backoff",
    ev.NodeReturned: "backoff",
    ev.BreakerOpened: "breaker",
    ev.BreakerClosed: "breaker",
}
"""The kinds of decisions: where requests go, what they wait for, which end without an answer, which
attempts are given up, what nodes are told to load and unload, which nodes are out."""


class Placed(Struct, frozen=True):
    """What was answered to one request, and where that stands."""

    kind: str
    answer: Answer
    position: int
    attempt: int = 0
    verdicts: tuple[Verdict, ...] = ()


class Answers(Struct):
    """All answers of one boundary: `placed` by request, `given_up` by request and attempt with their
    positions, `orders` (load or unload, node, model) that no placement brought. `cut`: there may be more
    to say than a commit takes."""

    placed: dict[str, Placed]
    given_up: dict[tuple[str, int], tuple[ev.AttemptAbandoned, int]]
    orders: dict[tuple[str, str, str], int]
    cut: bool

    def next_node(self, request: str) -> str:
        """Where a request that was given up goes next, if anywhere."""
        found = self.placed.get(request)
        return found.answer.node if found is not None and found.answer.kind == "routed" else ""

    def served(self, node: str, but: str) -> str:
        """Another request that goes to the node, if one does."""
        return next(
            (
                request
                for request, found in self.placed.items()
                if request != but and (found.answer.kind, found.answer.node) == ("routed", node)
            ),
            "",
        )


def answers_of(rows: Iterable[tuple[int, ev.AnyEvent]], most: int) -> Answers:
    """The answers with their positions; `most` is policy.max_events."""
    found, count, went = Answers({}, {}, {}, False), 0, set[tuple[str, str, str]]()
    for position, event in rows:
        count += 1
        match event:
            case ev.RequestRouted() | ev.RequestDeferred() | ev.RequestFailed() | ev.RequestExpired():
                placed = found.placed[event.request] = placed_by(event, position)
                went |= {("unload", placed.answer.node, model) for model in placed.answer.evicts}
            case ev.AttemptAbandoned():
                found.given_up[event.request, event.attempt] = (event, position)
            case ev.UnloadOrdered(node, model):
                found.orders["unload", node, model] = position
            case ev.LoadOrdered(node, model):
                found.orders["load", node, model] = position
            case _:
                pass
    for key in went:
        found.orders.pop(key, None)
    found.cut = count >= most
    return found


def placed_by(
    event: ev.RequestRouted | ev.RequestDeferred | ev.RequestFailed | ev.RequestExpired, position: int
) -> Placed:
    """What an event answers to its request."""
    kind = KINDS[type(event)]
    match event:
        case ev.RequestRouted(_, attempt, node, _, _, verdicts):
            evicts = next((each.evicts for each in verdicts if each.node == node), ())
            return Placed(kind, Answer("routed", node, evicts=evicts), position, attempt, verdicts)
        case ev.RequestDeferred(_, code, node, verdicts):
            return Placed(kind, Answer("deferred", node, code), position, verdicts=verdicts)
        case ev.RequestFailed(_, code):
            return Placed(kind, Answer("failed", code=code), position)
        case _:
            return Placed(kind, Answer("expired"), position)


class Side(Struct, frozen=True):
    """One of the two grids at a boundary, before anything is answered, and what is answered."""

    grid: Grid
    events: Sequence[ev.AnyEvent]
    answers: Answers

    def placing(self) -> Grid:
        """The grid as it is when the waiting requests are looked at."""
        draft = self.grid.draft()
        for event in self.events:
            if isinstance(event, EARLY):
                apply(draft, event)
        return draft

    def waiting(self, key: str, position: int) -> Placed | None:
        """The answer to a request about which nothing is said, as it goes on waiting. None where it does
        not wait, or where there is no room to say it."""
        row = self.grid.open.get(key)
        if row is None or row.work_id or not row.deferred or self.answers.cut:
            return None
        draft = self.placing()
        draft.open[key] = replace(row, deferred="")  # then the reason is said anew
        for event in placements(draft, draft.policy):
            if isinstance(event, ev.RequestDeferred) and event.request == key:
                return replace(
                    placed_by(event, position), answer=Answer("deferred", event.node, row.deferred)
                )
            apply(draft, event)
        return Placed("wait", Answer("deferred", code=row.deferred), position)

    def verdicts(self, key: str) -> tuple[Verdict, ...]:
        """What was found on each node for a request that ends, which tells none."""
        draft = self.placing()
        return route(draft, draft.open[key], draft.policy).verdicts
