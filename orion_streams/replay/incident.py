"""An incident from a log: everything that its report shows, collected while the log is folded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from orion_streams.eventlog.loader import fold_each
from orion_streams.model import events as ev
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.anomalies import Anomaly, Facts, find
from orion_streams.replay.buckets import Buckets, fit
from orion_streams.replay.incident_facts import (
    Attempt,
    Backoff,
    Deferral,
    Moment,
    Rules,
    Silence,
    Stay,
    Trip,
    Wait,
)
from orion_streams.replay.node_timeline import MAX_POINTS, Machine, Machines
from orion_streams.replay.request_timeline import Lives

Row = tuple[int, bytes]


class Counts(Struct, frozen=True):
    """How many requests were accepted and how they ended; `open`: not yet. `rejected` were never accepted,
    `resent` came again under a known id, `unreadable` are entries that are no request."""

    accepted: int
    ended: dict[str, int]
    open: int
    rejected: int
    resent: int
    unreadable: int


class Incident(Struct, frozen=True):
    """What a report shows of a log from `begin` to `end`. `found` counts what the lists hold and what they
    leave out: attempts, deferrals and each kind of anomaly. `back_ms`: how far the server's clock went back
    at most. `simulated`: nodes that are no real machines, by the log's configuration."""

    source: str
    begin: Moment
    end: Moment
    events: int
    counts: Counts
    longest: Wait | None
    rules: tuple[Rules, ...]
    machines: tuple[Machine, ...]
    queue: Buckets
    backoffs: tuple[Backoff, ...]
    trips: tuple[Trip, ...]
    silences: tuple[Silence, ...]
    stays: tuple[Stay, ...]
    attempts: tuple[Attempt, ...]
    deferrals: tuple[Deferral, ...]
    anomalies: tuple[Anomaly, ...]
    found: dict[str, int]
    back_ms: int
    simulated: tuple[str, ...] = ()


class Collector:
    """Folds a log from `base` on, whose state is not changed, and keeps what a report shows. `source`: what
    log it is, for the person who reads it."""

    def __init__(self, base: LoggedGrid, source: str) -> None:
        self._state = LoggedGrid(base.grid.copy(), base.digest)
        self._source = source
        grid = self._state.grid
        self._now = Moment(grid.server_ms, grid.position)
        self._begin: Moment | None = None
        self._head: ev.Committed | None = None
        self._machines = Machines(grid, self._now)
        self._lives = Lives(grid, self._now)
        self._gaps: list[Silence] = []
        self._rules: list[Rules] = []
        self._events = self._rejected = self._resent = self._unreadable = self._back_ms = 0
        if grid.revision:
            self._ruled(self._now)

    @property
    def state(self) -> LoggedGrid:
        """What is folded so far; only to be looked at."""
        return self._state

    def take(self, rows: Sequence[Row]) -> None:
        """Fold the next rows. LogError names the position of one that is no event, or before which the log
        was changed."""
        for position, event in fold_each(self._state, rows):
            self._events += 1
            if isinstance(event, ev.Committed):
                self._commit(event, position)
            self._now = now = Moment(self._now.ms, position)
            if self._begin is None:
                self._begin = self._machines.start = now
            self._machines.take(self._state.grid, event, now)
            if not isinstance(event, ev.NodeSampled):
                self._lives.take(event, now)
                self._count(event)

    def _commit(self, head: ev.Committed, position: int) -> None:
        """A commit begins, so the one before it has ended."""
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
        if self._head is not None and self._head.decided:  # else health of long ago is being read
            self._machines.commit_ended(self._state.grid, at_ms)
        self._lives.commit_ended(self._now.ms)

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
        """What was found up to here; nothing can be taken any more."""
        grid, machines, lives, now = self._state.grid, self._machines, self._lives, self._now
        open_requests = lives.open
        self._commit_ended(grid.at_ms)
        lives.finish(now)
        rows = tuple(machines.rows[name] for name in sorted(machines.rows))
        fit([row.health for row in rows], MAX_POINTS)
        silences = (*machines.silences, *self._gaps)
        facts = Facts(
            now, machines.stays, machines.backoffs, machines.trips, silences,
            lives.waits.all(), lives.retried.all(), lives.unanswered.all(),
        )  # fmt: skip
        anomalies, found = find(facts)
        for kind, kept in (
            ("wait", lives.waits),
            ("retry", lives.retried),
            ("unanswered", lives.unanswered),
        ):
            found[kind] = kept.count
        found |= {"attempts": lives.attempts.count, "deferrals": lives.deferrals.count}
        return Incident(
            source=self._source,
            begin=self._begin or now,
            end=now,
            events=self._events,
            counts=Counts(
                lives.accepted, dict(lives.ended), open_requests, self._rejected, self._resent,
                self._unreadable,
            ),
            longest=lives.longest,
            rules=tuple(self._rules),
            machines=rows,
            queue=lives.queue,
            backoffs=tuple(machines.backoffs),
            trips=tuple(machines.trips),
            silences=silences,
            stays=tuple(machines.stays),
            attempts=tuple(lives.attempts.all()),
            deferrals=tuple(lives.deferrals.all()),
            anomalies=anomalies,
            found=found,
            back_ms=self._back_ms,
        )  # fmt: skip


def collect(base: LoggedGrid, chunks: Iterable[Sequence[Row]], source: str) -> Incident:
    """The incident in all the chunks of a log that follow `base`. Raises LogError."""
    collector = Collector(base, source)
    for rows in chunks:
        collector.take(rows)
    return collector.finish()
