"""Index the decisions of one commit by what they are about, so that two sets of decisions can be compared.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.queue import placements
from orion_streams.decider.route import route
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import WaitKind
from orion_streams.projections import apply
from orion_streams.replay.explain_change import Answer

SAFETY = (ev.NodeResumed, ev.NodeBackedOff, ev.NodeReturned, ev.BreakerOpened, ev.BreakerClosed)
"""Decisions about a node itself."""
EARLY = (*SAFETY, ev.AttemptAbandoned)
"""Decisions that `decide` makes before it places waiting requests."""
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
    ev.NodeResumed: "rest",
    ev.BreakerOpened: "breaker",
    ev.BreakerClosed: "breaker",
}
"""The kind of each decision, as `replay whatif` counts them."""


class Placed(Struct, frozen=True):
    """The decision about one request, its position in the log, and the verdicts behind it."""

    kind: str
    answer: Answer
    position: int
    attempt: int = 0
    verdicts: tuple[Verdict, ...] = ()


class Answers(Struct):
    """All decisions of one commit: `placed` by request, `given_up` by request and attempt with their
    positions, `orders` (load or unload, node, model) that no placement caused. `cut`: the commit is full,
    so decisions may be missing."""

    placed: dict[str, Placed]
    given_up: dict[tuple[str, int], tuple[ev.AttemptAbandoned, int]]
    orders: dict[tuple[str, str, str], int]
    cut: bool

    def next_node(self, request: str) -> str:
        """Return the node that an abandoned request is routed to next, or an empty string."""
        found = self.placed.get(request)
        return found.answer.node if found is not None and found.answer.kind == "routed" else ""

    def served(self, node: str, but: str) -> str:
        """Return another request that is routed to the node, or an empty string."""
        return next(
            (
                request
                for request, found in self.placed.items()
                if request != but and (found.answer.kind, found.answer.node) == ("routed", node)
            ),
            "",
        )


def answers_of(rows: Iterable[tuple[int, ev.AnyEvent]], most: int) -> Answers:
    """Index decisions with their positions; `most` is policy.max_events."""
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
    """Convert an event about a request."""
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
    """One of the two grids before its decisions, and these decisions."""

    grid: Grid
    events: Sequence[ev.AnyEvent]
    answers: Answers

    def placing(self) -> Grid:
        """Return the grid as it is when waiting requests are placed."""
        draft = self.grid.draft()
        for event in self.events:
            if isinstance(event, EARLY):
                apply(draft, event)
        return draft

    def placed(self, key: str, position: int) -> Placed | None:
        """Return the decision about a request. One about which nothing was decided goes on waiting, for the
        reason that holds now; None where it does not wait, or where the commit is full."""
        known = self.answers.placed.get(key)
        if known is not None:
            return known
        row = self.grid.open.get(key)
        if row is None or row.work_id or not row.deferred or self.answers.cut:
            return None
        draft = self.placing()
        draft.open[key] = replace(row, deferred=WaitKind.NONE)  # then `placements` states the reason anew
        for event in placements(draft):
            if isinstance(event, ev.RequestDeferred) and event.request == key:
                return replace(
                    placed_by(event, position), answer=Answer("deferred", event.node, row.deferred)
                )
            apply(draft, event)
        return Placed("wait", Answer("deferred", code=row.deferred), position)

    def verdicts(self, key: str) -> tuple[Verdict, ...]:
        """Compute the verdicts on each node for a request that ends, since its event holds none."""
        draft = self.placing()
        return route(draft, draft.open[key]).verdicts
