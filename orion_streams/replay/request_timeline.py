"""Follow the requests of a log: attempts, waits, ends. Pure."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.text import why_abandoned
from orion_streams.projections.ended_requests import EndedRequest
from orion_streams.replay.buckets import Buckets
from orion_streams.replay.incident_facts import (
    Attempt,
    Deferral,
    Kept,
    Moment,
    RequestSpan,
    SlowRequest,
    Wait,
)
from orion_streams.replay.request_delays import Delays, Turns
from orion_streams.replay.request_table import RequestTable

LONG_WAIT_MS = 60_000
MAX_ATTEMPTS, MAX_DEFERRALS, MAX_REQUESTS = 4_000, 2_000, 1_000
"""So many are kept: those that went wrong, then the longest."""
MAX_QUEUE_POINTS = 8_000

Ended = ev.RequestCompleted | ev.RequestFailed | ev.RequestExpired | ev.RequestCancelled
OUTCOMES: dict[type[Ended], str] = {
    ev.RequestCompleted: "done",
    ev.RequestFailed: "error",
    ev.RequestExpired: "expired",
    ev.RequestCancelled: "cancelled",
}


class Open(Struct):
    """An open request. `waits_since`: when it began to wait; None while a node runs it."""

    span: RequestSpan
    waits_since: Moment | None
    delays: Delays
    attempt: Attempt | None = None
    waited_long: bool = False


class RequestTimeline:
    """Follows the requests of a log. `attempts` and `deferrals` hold the decisions, `waits` those over
    LONG_WAIT_MS, `retried` and `unanswered` requests, `queue` how many waited and ran over time, `table`
    those that have ended."""

    def __init__(self, grid: Grid, now: Moment) -> None:
        self.attempts = Kept[Attempt](MAX_ATTEMPTS)
        self.deferrals = Kept[Deferral](MAX_DEFERRALS)
        self.waits = Kept[Wait](MAX_REQUESTS)
        self.retried = Kept[RequestSpan](MAX_REQUESTS)
        self.unanswered = Kept[RequestSpan](MAX_REQUESTS)
        self.queue = Buckets(2, MAX_QUEUE_POINTS)
        self.table = RequestTable()
        self.ended: Counter[str] = Counter()
        self.accepted = 0
        self.longest: Wait | None = None
        self.longest_ms = 0
        self._open: dict[str, Open] = {}
        self._waiting = 0
        self._turns = Turns()
        self._at = Moment(grid.at_ms, grid.position)
        for key, request in grid.open.items():
            since = Moment(now.ms - (grid.at_ms - request.accepted_ms), request.accepted)
            row = self._begins(
                key,
                request.model,
                since,
                Delays(key, Moment(request.accepted_ms, request.accepted), "before"),
            )
            row.span.attempts = request.attempt
            row.span.failures = tuple((each.node, each.code) for each in request.failures)
            if request.work_id:
                self._waiting -= 1
                row.attempt = Attempt(
                    begin=now,
                    request=key,
                    number=request.attempt,
                    node=request.node,
                    model=request.model,
                    work_id=request.work_id,
                )
                self._turns.begin(request.node, key, request.model, now.position)
                row.delays.sent(request.node, (), self._at, self._turns)
                if request.started:
                    row.attempt.started, row.waits_since = now, None
                    row.delays.begun(self._at)

    @property
    def open(self) -> int:
        """Return how many requests are open."""
        return len(self._open)

    def _begins(self, key: str, model: str, since: Moment, delays: Delays) -> Open:
        before = self._open.get(key)
        if before is not None and before.attempt is None:
            self._waiting -= 1  # no router accepts an id twice while it is open
        span = RequestSpan(begin=since, request=key, model=model, attempts=0, failures=())
        row = self._open[key] = Open(span, since, delays)
        self._waiting += 1
        return row

    def commit_ended(self, ms: int) -> None:
        """Add to `queue` how many requests wait and run after a commit."""
        self.queue.add(ms, (self._waiting, len(self._open) - self._waiting))

    def take(self, event: ev.AnyEvent, now: Moment, at_ms: int, end: EndedRequest | None = None) -> None:
        """Follow an event that was folded at grid time `at_ms`, and ended a request as `end` says; ignore
        those that are not about an open request."""
        self._at = Moment(at_ms, now.position)
        match event:
            case ev.RequestAccepted():
                self.accepted += 1
                since = Moment(now.ms - event.age_ms, now.position)
                self._begins(
                    event.request, event.model, since, Delays(event.request, self._before(event.age_ms))
                )
            case ev.RequestDeferred():
                self._deferred(event, now)
            case ev.RequestRouted():
                self._routed(event, now)
            case ev.RequestStarted():
                self._started(event, now)
            case ev.AttemptFailed():
                self._did_not_answer(event, event.code, "failed", now)
            case ev.AttemptAbandoned():
                self._did_not_answer(event, event.reason, "abandoned", now)
            case ev.RequestCompleted() | ev.RequestFailed() | ev.RequestExpired() | ev.RequestCancelled():
                self._ended(event, now, end)
            case _:
                pass

    def _before(self, ago_ms: int) -> Moment:
        return Moment(self._at.ms - ago_ms, self._at.position)

    def _deferred(self, event: ev.RequestDeferred, now: Moment) -> None:
        row = self._open.get(event.request)
        if row is not None:
            row.delays.waits(event.kind, event.node, event.verdicts, self._at, self._turns)
            deferral = Deferral(now, event.request, event.kind, event.node, event.verdicts)
            self.deferrals.add(deferral, not event.node)

    def _routed(self, event: ev.RequestRouted, now: Moment) -> None:
        row = self._open.get(event.request)
        if row is None:
            return
        if row.attempt is None:
            self._waiting -= 1
        row.span.attempts += 1
        row.attempt = Attempt(
            begin=now,
            request=event.request,
            number=event.attempt,
            node=event.node,
            model=row.span.model,
            work_id=event.work_id,
            verdicts=event.verdicts,
        )
        row.delays.sent(event.node, event.verdicts, self._at, self._turns)
        self._turns.begin(event.node, event.request, row.span.model, now.position)

    def _started(self, event: ev.RequestStarted, now: Moment) -> None:
        row = self._open.get(event.request)
        if row is None or row.attempt is None or row.attempt.work_id != event.work_id:
            return
        began = Moment(max(now.ms - event.age_ms, row.attempt.begin.ms), now.position)
        row.attempt.started = began
        row.delays.begun(self._before(event.age_ms))
        self._waited(row, began)

    def _waited(self, row: Open, until: Moment, over: bool = True) -> None:
        """End the wait of a request; `over`: it began to run or ended."""
        if row.waits_since is None:
            return
        wait = Wait(
            begin=row.waits_since,
            end=until if over else None,
            request=row.span.request,
            model=row.span.model,
        )
        row.waits_since = None
        length_ms = wait.length_ms(until)
        if self.longest is None or length_ms > self.longest_ms:
            self.longest, self.longest_ms = wait, length_ms
        if length_ms > LONG_WAIT_MS:
            row.waited_long = True
            self.waits.add(wait, length_ms)

    def _did_not_answer(
        self, event: ev.AttemptFailed | ev.AttemptAbandoned, code: str, outcome: str, now: Moment
    ) -> None:
        row = self._open.get(event.request)
        if row is None or row.attempt is None or row.attempt.work_id != event.work_id:
            return
        if row.attempt.started is not None:
            row.waits_since = now
        row.span.failures = (*row.span.failures, (event.node, code))
        row.delays.failed(event.node, why_abandoned(code), self._at)
        self._turns.end(event.request, now.position)
        self._attempt_ended(row, outcome, code, now)
        self._waiting += 1

    def _attempt_ended(self, row: Open, outcome: str, code: str, now: Moment | None) -> None:
        attempt, row.attempt = row.attempt, None
        if attempt is None:
            return
        attempt.end, attempt.outcome, attempt.code = now, outcome, code
        matters = 2 * (outcome != "done") + (attempt.number > 1 or row.waited_long)
        self.attempts.add(attempt, matters, attempt.length_ms(now or attempt.begin))

    def _ended(self, event: Ended, now: Moment, end: EndedRequest | None) -> None:
        row = self._open.pop(event.request, None)
        if row is None:
            return
        outcome = OUTCOMES[type(event)]
        self.ended[outcome] += 1
        if row.attempt is None:
            self._waiting -= 1
        if isinstance(event, ev.RequestCompleted) and row.attempt is not None:
            row.attempt.tokens, row.attempt.cold = event.tokens, event.cold
            if row.attempt.started is None:
                row.delays.begun(self._before(event.total_ms))
            self._waited(row, row.attempt.begin)  # whose start the log does not have
        self._waited(row, now)
        code = event.code if isinstance(event, ev.RequestFailed) else ""
        self._attempt_ended(row, outcome, code, now)
        row.span.end, row.span.outcome, row.span.code = now, outcome, code
        self._remember(row.span, now)
        self._turns.end(event.request, now.position)
        if end is not None:
            self.table.add(
                SlowRequest(
                    begin=row.span.begin,
                    end=now,
                    ended=end,
                    delays=row.delays.ended(self._at),
                    heat_ms=row.delays.heat_ms,
                )
            )

    def _remember(self, span: RequestSpan, now: Moment) -> None:
        if span.attempts > 1:
            self.retried.add(span, span.attempts, span.length_ms(now))
        if span.outcome in ("error", "expired"):
            self.unanswered.add(span, span.length_ms(now))

    def counts(self) -> dict[str, int]:
        """Return how many there were of each kind, kept or not."""
        return {
            "wait": self.waits.count,
            "retry": self.retried.count,
            "unanswered": self.unanswered.count,
            "attempts": self.attempts.count,
            "deferrals": self.deferrals.count,
        }

    def finish(self, now: Moment) -> None:
        """End here: what is open stays open."""
        for row in self._open.values():
            self._waited(row, now, over=False)
            self._attempt_ended(row, "", "", None)
            self._remember(row.span, now)
