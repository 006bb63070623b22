"""Collect everything that an incident report shows, while folding a log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from orion_streams.eventlog.jsonl import Row
from orion_streams.eventlog.loader import fold_each
from orion_streams.model import events as ev
from orion_streams.projections.ended_requests import EndedRequests
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.anomalies import Anomaly, Facts, find
from orion_streams.replay.buckets import Buckets, fit
from orion_streams.replay.incident_facts import (
    Attempt,
    Backoff,
    Boot,
    Deferral,
    Moment,
    Rules,
    Silence,
    SlowRequest,
    Stay,
    Trip,
    Wait,
)
from orion_streams.replay.node_timeline import MAX_POINTS, NodeRow, NodeTimeline
from orion_streams.replay.request_table import Group
from orion_streams.replay.request_timeline import RequestTimeline


class Counts(Struct, frozen=True, kw_only=True):
    """Numbers of requests: `accepted`, `ended` by outcome, `open`, `rejected`, `resent` under a known id,
    and `unreadable` entries: other ones that were refused."""

    accepted: int
    ended: dict[str, int]
    open: int
    rejected: int
    resent: int
    unreadable: int


class Incident(Struct, frozen=True, kw_only=True):
    """What a report shows of a log from `begin` to `end`. `found`: numbers of attempts, deferrals and
    anomalies by kind, also of those that the lists leave out. `back_ms`: the largest step back of the
    server's clock. `slowest`: requests that have ended, the slowest ones by total time, wait and load;
    `groups`: percentiles; `spent`: as in `RequestTable`. `simulated`: nodes that the log's configuration
    marks as simulated."""

    source: str
    begin: Moment
    end: Moment
    events: int
    counts: Counts
    longest: Wait | None
    rules: tuple[Rules, ...]
    nodes: tuple[NodeRow, ...]
    queue: Buckets
    backoffs: tuple[Backoff, ...]
    trips: tuple[Trip, ...]
    boots: tuple[Boot, ...]
    silences: tuple[Silence, ...]
    stays: tuple[Stay, ...]
    attempts: tuple[Attempt, ...]
    deferrals: tuple[Deferral, ...]
    anomalies: tuple[Anomaly, ...]
    found: dict[str, int]
    back_ms: int
    slowest: tuple[SlowRequest, ...] = ()
    groups: tuple[Group, ...] = ()
    spent: dict[str, int] = {}
    simulated: tuple[str, ...] = ()


class Collector:
    """Folds a log from a copy of `base` on, and keeps what a report shows. `source`: the log's name."""

    def __init__(self, base: LoggedGrid, source: str) -> None:
        self._state = LoggedGrid(base.grid.copy(), base.digest)
        self._source = source
        grid = self._state.grid
        self._now = Moment(grid.server_ms, grid.position)
        self._begin: Moment | None = None
        self._head: ev.Committed | None = None
        self._nodes = NodeTimeline(grid, self._now)
        self._ends = EndedRequests(grid)
        self._requests = RequestTimeline(grid, self._now)
        self._gaps: list[Silence] = []
        self._rules: list[Rules] = []
        self._events = self._rejected = self._resent = self._unreadable = self._back_ms = 0
        if grid.revision:
            self._ruled(self._now)

    @property
    def state(self) -> LoggedGrid:
        """Return the state so far; callers must not change it."""
        return self._state

    def take(self, rows: Sequence[Row]) -> None:
        """Fold the next rows. Raises LogError with the position of a row that is no event, or before which
        the log was changed."""
        for position, event in fold_each(self._state, rows):
            self._events += 1
            if isinstance(event, ev.Committed):
                self._commit(event, position)
            self._now = now = Moment(self._now.ms, position)
            if self._begin is None:
                self._begin = self._nodes.start = now
            self._nodes.take(self._state.grid, event, now)
            if not isinstance(event, ev.NodeSampled):
                grid = self._state.grid
                self._requests.take(event, now, grid.at_ms, self._ends.take(grid, event))
                self._count(event)

    def _commit(self, head: ev.Committed, position: int) -> None:
        """Begin a commit, which ends the one before it."""
        grid, before = self._state.grid, self._now
        ms = max(head.server_ms, before.ms)
        self._back_ms = max(self._back_ms, before.ms - head.server_ms)
        if self._head is not None:
            self._commit_ended(grid.before_ms)
            heard = any(node.heard_ms is not None for node in grid.nodes.values())
            if heard and ms - before.ms > grid.policy.stale_ms:
                end = Moment(ms, position)
                self._gaps.append(Silence(begin=before, end=end, node="", limit_ms=grid.policy.stale_ms))
        self._head, self._now = head, Moment(ms, position)

    def _commit_ended(self, at_ms: int) -> None:
        if self._head is not None and self._head.decided:  # else the router catches up with old health
            self._nodes.commit_ended(self._state.grid, at_ms)
        self._requests.commit_ended(self._now.ms)

    def _count(self, event: ev.AnyEvent) -> None:
        match event:
            case ev.PolicyChanged():
                self._ruled(self._now)
            case ev.RequestRejected():
                self._rejected += 1
            case ev.RequestResent():
                self._resent += 1
            case ev.InputRejected():
                self._unreadable += 1
            case _:
                pass

    def _ruled(self, now: Moment) -> None:
        grid = self._state.grid
        self._rules.append(Rules(now, grid.revision, grid.policy_id, grid.policy))

    def finish(self) -> Incident:
        """Return the incident up to here. Call nothing else afterwards."""
        nodes, requests, now = self._nodes, self._requests, self._now
        self._commit_ended(self._state.grid.at_ms)
        requests.finish(now)
        nodes.finish()
        rows = tuple(nodes.rows[name] for name in sorted(nodes.rows))
        fit([row.health for row in rows], MAX_POINTS)
        silences = (*nodes.silences, *self._gaps)
        anomalies, found = find(
            Facts(
                now=now,
                stays=nodes.stays,
                backoffs=nodes.backoffs,
                boots=nodes.boots,
                trips=nodes.trips,
                silences=silences,
                waits=requests.waits.all(),
                retried=requests.retried.all(),
                unanswered=requests.unanswered.all(),
            )
        )
        return Incident(
            source=self._source,
            begin=self._begin or now,
            end=now,
            events=self._events,
            counts=self._counts(),
            longest=requests.longest,
            rules=tuple(self._rules),
            nodes=rows,
            queue=requests.queue,
            backoffs=tuple(nodes.backoffs),
            trips=tuple(nodes.trips),
            boots=tuple(nodes.boots),
            silences=silences,
            stays=tuple(nodes.stays),
            attempts=tuple(requests.attempts.all()),
            deferrals=tuple(requests.deferrals.all()),
            anomalies=anomalies,
            found=found | requests.counts(),
            back_ms=self._back_ms,
            slowest=requests.table.slowest(),
            groups=requests.table.groups(),
            spent=dict(requests.table.spent),
        )

    def _counts(self) -> Counts:
        requests = self._requests
        return Counts(
            accepted=requests.accepted,
            ended=dict(requests.ended),
            open=requests.open,
            rejected=self._rejected,
            resent=self._resent,
            unreadable=self._unreadable,
        )


def collect(base: LoggedGrid, chunks: Iterable[Sequence[Row]], source: str) -> Incident:
    """Collect the incident in the chunks of a log that follow `base`. Raises LogError."""
    collector = Collector(base, source)
    for rows in chunks:
        collector.take(rows)
    return collector.finish()
