"""A fold of the log into one row for each request that ends. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Request, Run
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import RequestKind, RequestState
from orion_streams.projections.attempts import fence
from orion_streams.projections.requests import TRANSITIONS

Ended = ev.RequestCompleted | ev.RequestFailed | ev.RequestExpired | ev.RequestCancelled
TOLERANCE_MS, TOLERANCE_PERMILLE = 1_000, 250
"""So much later than promised an answer may come, whichever is more, and still be in time."""


class EndedRequest(Struct, frozen=True, kw_only=True):
    """A request that has ended, at `position` and `ended_ms` of the server's clock.

    `node`: the last that had it, "" if none did; `attempts`: how many there were; `code`: of an error.
    `age_ms`: from its acceptance to its end; `waited_ms`: to the begin of its last run, or to its end if
    none began. `promised_ms`: what routing expected from its last sending to the answer, `took_ms`: what
    that took; both 0 if it was never sent. As the node measured an answer, else 0: `load_ms`,
    `first_token_ms`, `run_ms` (of an attempt that began and gave no answer: until the end), `decode_ms`,
    `tokens`, `prompt_tokens`."""

    request: str
    kind: RequestKind
    model: str
    outcome: RequestState
    position: int
    ended_ms: int
    age_ms: int
    waited_ms: int
    node: str = ""
    attempts: int = 0
    code: str = ""
    cold: bool = False
    promised_ms: int = 0
    took_ms: int = 0
    load_ms: int = 0
    first_token_ms: int = 0
    run_ms: int = 0
    decode_ms: int = 0
    tokens: int = 0
    prompt_tokens: int = 0

    @property
    def kept_promise(self) -> bool | None:
        """Whether the answer came in the promised time; None without an answer."""
        if self.outcome is not RequestState.DONE:
            return None
        late_ms = self.took_ms - self.promised_ms
        return late_ms <= max(self.promised_ms * TOLERANCE_PERMILLE // 1000, TOLERANCE_MS)


class Seen(Struct, frozen=True):
    """An open request as it was last seen. `sent_ms`, `begun_ms`: of its last attempt, in grid time; None
    if there was none, or it has not begun."""

    row: Request
    node: str = ""
    sent_ms: int | None = None
    begun_ms: int | None = None
    promised_ms: int = 0


class EndedRequests:
    """Follows the requests of a log, from those that are open in `grid` on."""

    def __init__(self, grid: Grid) -> None:
        self._seen = {key: seen_now(grid, row) for key, row in grid.open.items()}

    def take(self, grid: Grid, event: ev.AnyEvent) -> EndedRequest | None:
        """Follow an event that was folded into `grid`; return the row of the request that it ends."""
        match event:
            case ev.RequestAccepted():
                self._seen[event.request] = Seen(grid.open[event.request])
            case ev.RequestRouted():
                self._note(grid, event.request, fence(event), sent(grid, event))
            case ev.RequestStarted():
                self._note(grid, event.request, event.work_id, {"begun_ms": grid.at_ms - event.age_ms})
            case ev.AttemptFailed() | ev.AttemptAbandoned():
                self._note(grid, event.request, "", {"begun_ms": None})
            case ev.RequestCompleted() | ev.RequestFailed() | ev.RequestExpired() | ev.RequestCancelled():
                seen = self._seen.pop(event.request, None)
                return ended(grid, event, seen) if seen is not None else None
            case _:
                pass
        return None

    def _note(self, grid: Grid, key: str, work_id: str, news: dict[str, object]) -> None:
        """Note news of an open request, if its current attempt is `work_id` ("": if it has none)."""
        seen, row = self._seen.get(key), grid.open.get(key)
        if seen is not None and row is not None and row.work_id == work_id:
            self._seen[key] = replace(seen, row=row, **news)


def sent(grid: Grid, event: ev.RequestRouted) -> dict[str, object]:
    """Return what a request is seen as once it is sent to a node."""
    chosen = next((each for each in event.verdicts if each.node == event.node), Verdict(node=event.node))
    promised_ms = chosen.drain_ms + chosen.run_ms
    return {"node": event.node, "sent_ms": grid.at_ms, "begun_ms": None, "promised_ms": promised_ms}


def seen_now(grid: Grid, row: Request) -> Seen:
    """Return an open request as the table has it: it does not say when an attempt that has begun was
    sent, and counts it from its begin."""
    node = grid.nodes.get(row.node)
    held = node.assignments.get(row.work_id) if node is not None else None
    if not isinstance(held, Run):
        return Seen(row, row.failures[-1].node if row.failures else "")
    return Seen(row, row.node, held.since_ms, held.since_ms if held.started else None, held.run_ms)


def ended(grid: Grid, event: Ended, seen: Seen) -> EndedRequest:
    """Return the row of a request that `event` has ended."""
    row, answer = seen.row, event if isinstance(event, ev.RequestCompleted) else None
    begun_ms = seen.begun_ms
    if begun_ms is None and answer is not None:  # its start was never told
        begun_ms = max(grid.at_ms - answer.total_ms, seen.sent_ms or row.accepted_ms)
    ran_ms = max(grid.at_ms - begun_ms, 0) if begun_ms is not None else 0
    return EndedRequest(
        request=event.request,
        kind=row.kind,
        model=row.model,
        outcome=RequestState(str(TRANSITIONS[type(event)][1])),
        position=grid.position,
        ended_ms=grid.server_ms,
        age_ms=grid.at_ms - row.accepted_ms,
        waited_ms=max(grid.at_ms - ran_ms - row.accepted_ms, 0),
        node=answer.node if answer is not None else seen.node,
        attempts=row.attempt,
        code=event.code if isinstance(event, ev.RequestFailed) else "",
        cold=answer is not None and answer.cold,
        promised_ms=seen.promised_ms,
        took_ms=grid.at_ms - seen.sent_ms if seen.sent_ms is not None else 0,
        load_ms=answer.load_ms if answer is not None else 0,
        first_token_ms=answer.first_token_ms if answer is not None else 0,
        run_ms=answer.total_ms if answer is not None else ran_ms,
        decode_ms=answer.decode_ms if answer is not None else 0,
        tokens=answer.tokens if answer is not None else 0,
        prompt_tokens=answer.prompt_tokens if answer is not None else 0,
    )
