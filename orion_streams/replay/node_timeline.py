"""Follow the nodes of a log: health over time, backoffs, models in memory, breakers, silence. Pure."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.model import events as ev
from orion_streams.model.marks import ram_permille
from orion_streams.model.state import Grid
from orion_streams.replay.buckets import Buckets
from orion_streams.replay.incident_facts import Backoff, Boot, Moment, Passed, Silence, Stay, Trip

MAX_POINTS = 66_000
"""Buckets of all nodes together: for three nodes and a day 4 s each."""
MIN_POINTS = 500
"""Buckets of one node."""


class NodeRow(Struct):
    """A node as the report shows it. `health`: milli-°C, memory and CPU in thousandths; `known_ms`: the
    grid time at which it was configured; `gone`: it no longer is; `heard`: its last sample; `stays`: the
    models in its memory, with the grid times of their loads; of the last sample `boot`, `said_goodbye` and
    `held`, how many runs it had in hand; `boot_before`: the boot before that, `booted`: when it began."""

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
    boot: str = ""
    boot_before: str = ""
    said_goodbye: bool = False
    held: int = 0
    booted: Boot | None = None


class NodeTimeline:
    """Follows the nodes of a grid that the caller folds. `start`: where the log begins."""

    def __init__(self, grid: Grid, now: Moment) -> None:
        self.start = now
        self.rows: dict[str, NodeRow] = {}
        self.backoffs: list[Backoff] = []
        self.stays: list[Stay] = []
        self.trips: list[Trip] = []
        self.silences: list[Silence] = []
        self.boots: list[Boot] = []
        self._configured(grid, now)
        for name, node in grid.nodes.items():
            self.rows[name].boot, self.rows[name].boot_before = node.boot, node.boot_before
            self.rows[name].said_goodbye = node.left
            if node.backed_off:
                self._backs_off(self.rows[name], now)
            if node.opened_ms is not None:
                self._opens(self.rows[name], now, 0, node.open_ms)

    def take(self, grid: Grid, event: ev.AnyEvent, now: Moment) -> None:
        """Follow an event that was folded; ignore those that are not about a known node."""
        row = self.rows.get(getattr(event, "node", ""))
        match event:
            case ev.PolicyChanged():
                self._configured(grid, now)
            case _ if row is None:
                pass
            case ev.NodeSampled():
                self._sampled(grid, row, event, now)
            case ev.ModelLoaded() | ev.ModelUnloaded() | ev.LoadEnded() | ev.RequestCompleted():
                self._models_of(grid, row, now)
            case ev.NodeBackedOff():
                backoff = row.backoff or self._backs_off(row, now)
                backoff.passed.append(Passed(event.reason, event.value, event.mark))
            case ev.NodeReturned() if row.backoff is not None:
                row.backoff.end, row.backoff = now, None
            case ev.BreakerOpened():  # also one that opens again when its probe failed
                self._closes(row, now)
                self._opens(row, now, event.failures, event.open_ms)
            case ev.BreakerClosed():
                self._closes(row, now)
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
            self._models_of(grid, row, now)
            if name not in grid.nodes:
                self._leaves(row, now)

    def _leaves(self, row: NodeRow, now: Moment) -> None:
        row.gone = True
        for span in (row.backoff, row.trip, row.silence):
            if span is not None:
                span.end = now
        row.backoff = row.trip = row.silence = row.heard = None

    def _sampled(self, grid: Grid, row: NodeRow, event: ev.NodeSampled, now: Moment) -> None:
        """Record a sample, at the time when it was taken."""
        node = grid.nodes.get(row.name)
        if node is None:
            return
        before = row.heard or self.start
        before_ms = before.ms
        row.heard = Moment(max(now.ms - event.age_ms, before_ms), now.position)
        row.samples += 1
        if row.silence is not None:
            row.silence.end = row.heard
            row.silence = None
        self._booted(row, event, before)
        row.health.add(row.heard.ms, (event.temp_mc, ram_permille(node), event.cpu_permille))

    def _booted(self, row: NodeRow, event: ev.NodeSampled, before: Moment) -> None:
        """Compare the boot of a sample with that of the one before it, at `before`."""
        if row.boot and event.boot != row.boot:
            if event.boot == row.boot_before and row.booted is not None:
                row.booted.kind, row.booted.end = "twins", row.heard
            else:
                kind = "restarted" if row.said_goodbye else "killed"
                row.booted = Boot(begin=before, end=row.heard, node=row.name, kind=kind, held=row.held)
                self.boots.append(row.booted)
            row.boot_before = row.boot
        row.boot, row.said_goodbye, row.held = event.boot, event.goodbye, len(event.in_hand)

    def finish(self) -> None:
        """End here: an agent that said goodbye has not come back."""
        for row in self.rows.values():
            if row.said_goodbye and not row.gone:
                begin = row.heard or self.start
                self.boots.append(Boot(begin=begin, node=row.name, kind="stopped", held=row.held))

    def commit_ended(self, grid: Grid, at_ms: int) -> None:
        """Find the nodes that are silent at grid time `at_ms`, the end of a commit."""
        limit_ms = grid.policy.stale_ms
        for name, node in grid.nodes.items():
            row = self.rows[name]
            since_ms = row.known_ms if node.heard_ms is None else node.heard_ms
            if row.silence is None and not node.left and at_ms - since_ms > limit_ms:
                begin, first = row.heard or self.start, row.heard is None
                row.silence = Silence(begin=begin, node=name, limit_ms=limit_ms, first=first)
                self.silences.append(row.silence)

    def _models_of(self, grid: Grid, row: NodeRow, now: Moment) -> None:
        """Compare the models in the node's memory with those that were there."""
        node = grid.nodes.get(row.name)
        resident = node.resident if node is not None else {}
        if not row.stays and not resident:
            return
        for model, (since_ms, stay) in list(row.stays.items()):
            if model not in resident or resident[model].since_ms != since_ms:
                stay.end = now
                del row.stays[model]
        for model in resident.keys() - row.stays.keys():
            stay = Stay(begin=now, node=row.name, model=model)
            row.stays[model] = (resident[model].since_ms, stay)
            self.stays.append(stay)

    def _backs_off(self, row: NodeRow, now: Moment) -> Backoff:
        row.backoff = Backoff(begin=now, node=row.name, passed=[])
        self.backoffs.append(row.backoff)
        return row.backoff

    def _opens(self, row: NodeRow, now: Moment, failures: int, open_ms: int) -> None:
        row.trip = Trip(begin=now, node=row.name, failures=failures, open_ms=open_ms)
        self.trips.append(row.trip)

    def _closes(self, row: NodeRow, now: Moment) -> None:
        if row.trip is not None:
            row.trip.end, row.trip = now, None
