"""Follow the nodes of a log: health over time, backoffs, models in memory, breakers, silence. Pure."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.model import events as ev
from orion_streams.model.marks import ram_permille
from orion_streams.model.state import Grid
from orion_streams.replay.buckets import Buckets
from orion_streams.replay.incident_facts import Backoff, Moment, Passed, Silence, Stay, Trip

MAX_POINTS = 66_000
"""Buckets of all nodes together: for three nodes and a day 4 s each."""
MIN_POINTS = 500
"""Buckets of one node."""


class NodeRow(Struct):
    """A node as the report shows it. `health`: milli-°C, memory and CPU in thousandths; `known_ms`: the
    grid time at which it was configured; `gone`: it no longer is; `heard`: its last sample; `stays`: the
    models in its memory, with the grid times of their loads."""

    name: str
    inference: bool
    sensor: bool
    health: Buckets
    known_ms: int
    gone: bool = False
    heard: Moment | None = None
    silence: Silence | None = None
    backoff: Backoff | None = None
    trip: Trip | None = None
    stays: dict[str, tuple[int, Stay]] = {}
    samples: int = 0


class NodeTimeline:
    """Follows the nodes of a grid that the caller folds. `start`: where the log begins."""

    def __init__(self, grid: Grid, now: Moment) -> None:
        self.start = now
        self.rows: dict[str, NodeRow] = {}
        self.backoffs: list[Backoff] = []
        self.stays: list[Stay] = []
        self.trips: list[Trip] = []
        self.silences: list[Silence] = []
        self._configured(grid, now)
        for name, node in grid.nodes.items():
            if node.backed_off:
                self._backs_off(name, now)
            if node.opened_ms is not None:
                self._trips(name, now, 0, node.open_ms)

    def take(self, grid: Grid, event: ev.AnyEvent, now: Moment) -> None:
        """Follow an event that was folded; ignore those that are not about a node."""
        match event:
            case ev.NodeSampled():
                self._sampled(grid, event, now)
            case ev.ModelLoaded() | ev.ModelUnloaded() | ev.LoadEnded() | ev.RequestCompleted():
                self._models_of(grid, event.node, now)
            case ev.NodeBackedOff():
                self._backed_off(event, now)
            case ev.NodeReturned():
                self._returned(event.node, now)
            case ev.BreakerOpened():
                self._opened(event, now)
            case ev.BreakerClosed():
                self._closed(event.node, now)
            case ev.PolicyChanged():
                self._configured(grid, now)
            case _:
                pass

    def _configured(self, grid: Grid, now: Moment) -> None:
        """Follow nodes that were added or removed."""
        most = max(MAX_POINTS // max(len(grid.nodes), 1), MIN_POINTS)
        for name, node in grid.nodes.items():
            rules = node.rules
            if name not in self.rows:
                health = Buckets(3, most)
                self.rows[name] = NodeRow(name, False, False, health, grid.at_ms)
            row = self.rows[name]
            row.inference, row.sensor = rules.takes_inference, rules.temperature_sensor
            if row.gone:
                row.gone, row.known_ms = False, grid.at_ms
        for name, row in self.rows.items():
            self._models_of(grid, name, now)
            if name not in grid.nodes:
                self._leaves(row, now)

    def _leaves(self, row: NodeRow, now: Moment) -> None:
        row.gone = True
        for span in (row.backoff, row.trip, row.silence):
            if span is not None:
                span.end = now
        row.backoff = row.trip = row.silence = row.heard = None

    def _sampled(self, grid: Grid, event: ev.NodeSampled, now: Moment) -> None:
        """Record a sample, at the time when it was taken."""
        row, node = self.rows.get(event.node), grid.nodes.get(event.node)
        if row is None or node is None:
            return
        before_ms = row.heard.ms if row.heard is not None else self.start.ms
        row.heard = Moment(max(now.ms - event.age_ms, before_ms), now.position)
        row.samples += 1
        if row.silence is not None:
            row.silence.end = row.heard
            row.silence = None
        row.health.add(row.heard.ms, (event.temp_mc, ram_permille(node), event.cpu_permille))

    def commit_ended(self, grid: Grid, at_ms: int) -> None:
        """Find the nodes that are silent at grid time `at_ms`, the end of a commit."""
        limit_ms = grid.policy.stale_ms
        for name, node in grid.nodes.items():
            row = self.rows[name]
            since_ms = row.known_ms if node.heard_ms is None else node.heard_ms
            if row.silence is None and at_ms - since_ms > limit_ms:
                begin, first = row.heard or self.start, row.heard is None
                row.silence = Silence(begin=begin, node=name, limit_ms=limit_ms, first=first)
                self.silences.append(row.silence)

    def _models_of(self, grid: Grid, name: str, now: Moment) -> None:
        """Compare the models in the node's memory with those that were there."""
        row, node = self.rows.get(name), grid.nodes.get(name)
        if row is None:
            return
        resident = node.resident if node is not None else {}
        if not row.stays and not resident:
            return
        for model, (since_ms, stay) in list(row.stays.items()):
            if model not in resident or resident[model].since_ms != since_ms:
                stay.end = now
                del row.stays[model]
        for model in resident.keys() - row.stays.keys():
            stay = Stay(begin=now, node=name, model=model)
            row.stays[model] = (resident[model].since_ms, stay)
            self.stays.append(stay)

    def _backed_off(self, event: ev.NodeBackedOff, now: Moment) -> None:
        """Record the mark that a node exceeded."""
        if event.node not in self.rows:
            return
        backoff = self.rows[event.node].backoff or self._backs_off(event.node, now)
        backoff.passed.append(Passed(event.reason, event.value, event.mark))

    def _backs_off(self, name: str, now: Moment) -> Backoff:
        backoff = self.rows[name].backoff = Backoff(begin=now, node=name, passed=[])
        self.backoffs.append(backoff)
        return backoff

    def _returned(self, name: str, now: Moment) -> None:
        """End the backoff of a node."""
        row = self.rows.get(name)
        if row is not None and row.backoff is not None:
            row.backoff.end, row.backoff = now, None

    def _opened(self, event: ev.BreakerOpened, now: Moment) -> None:
        """Record an opened breaker, also one that opened again when its probe failed."""
        if event.node in self.rows:
            self._closed(event.node, now)
            self._trips(event.node, now, event.failures, event.open_ms)

    def _trips(self, name: str, now: Moment, failures: int, open_ms: int) -> None:
        trip = self.rows[name].trip = Trip(begin=now, node=name, failures=failures, open_ms=open_ms)
        self.trips.append(trip)

    def _closed(self, name: str, now: Moment) -> None:
        """End the span of an open breaker."""
        row = self.rows.get(name)
        if row is not None and row.trip is not None:
            row.trip.end, row.trip = now, None
