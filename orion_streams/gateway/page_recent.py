"""What the page shows of the last minutes, as a fold of the log: tracks, decisions, ticks. Pure.

`Recent` is told each event after it was folded into the grid. All that it keeps is bounded; what it knows
of before its begin another one can add (`add_before`), that was folded from an earlier position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TypeVar

from msgspec import Struct

from orion_streams.gateway.page_rows import Decision, Tick, TrackPoint
from orion_streams.gateway.page_ticks import Ticks
from orion_streams.gateway.page_words import decision
from orion_streams.model import events as ev
from orion_streams.model.marks import ram_permille
from orion_streams.model.policy import MAX_GUESTS
from orion_streams.model.state import Grid, client_of

TRACK_MS, STEP_MS = 600_000, 5_000
"""How long a track is, and how far apart its points are."""
MOST_DECISIONS = 30
MOST_ROUTED = 300
"""So many choices are remembered with their verdicts."""
MOST_TRACKS = MAX_GUESTS
POINTS = TRACK_MS // STEP_MS + 1


Row = TypeVar("Row", Decision, Tick)


class Known(Struct, frozen=True):
    """An open request: its model, and the position at which it was accepted."""

    model: str
    number: int


class Routed(Struct, frozen=True):
    """Where a request went last, and why. `request`: its key."""

    request: str
    model: str
    event: ev.RequestRouted


class Point(Struct, frozen=True):
    """A point of a track, and its position in the log."""

    position: int
    point: TrackPoint


class RecentRows(Struct, frozen=True):
    """A `Recent` as a value: what it knows after position `since`, up to `position`."""

    since: int
    position: int
    tracks: dict[str, list[Point]]
    decisions: list[Decision]
    ticks: list[Tick]
    routed: dict[int, Routed]


class Recent:
    """Tracks of TRACK_MS by node, the last decisions, and ticks. `since`: it knows what came after that
    position; None: it has not begun."""

    def __init__(self) -> None:
        self.since: int | None = None
        self.position: int | None = None
        self.ticks = Ticks()
        self.decisions: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self.tracks: dict[str, deque[Point]] = {}
        self.routed: dict[int, Routed] = {}
        self._open: dict[str, Known] = {}

    def begin(self, grid: Grid) -> None:
        """Go on from a table: at its own position, at an earlier one, after which events come again or were
        lost, or beyond a gap of which nothing is known."""
        if grid.position == self.position:
            return
        self._forget_after(grid.position)
        if self.since is None or not self.since <= grid.position <= (self.position or 0):
            self.since = grid.position
        self.position = grid.position
        self._open = {key: Known(row.model, row.accepted) for key, row in grid.open.items()}
        self.ticks.begin(grid)

    def _forget_after(self, position: int) -> None:
        self.decisions = deque(
            (each for each in self.decisions if each.position <= position), MOST_DECISIONS
        )
        self.tracks = {
            node: deque((each for each in points if each.position <= position), POINTS)
            for node, points in self.tracks.items()
        }
        self.routed = {n: row for n, row in self.routed.items() if n <= position}
        self.ticks.forget_after(position)

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Take an event that was just folded into the grid."""
        self.position = position = grid.position
        self.ticks.take(position, event)
        if isinstance(event, ev.Committed):
            return
        if isinstance(event, ev.NodeSampled):
            self._sampled(grid, event)
            return
        key = getattr(event, "request", "")
        if isinstance(event, ev.RequestAccepted):
            self._open[key] = Known(event.model, position)
        known = self._open.get(key, Known(getattr(event, "model", ""), 0))
        if isinstance(event, ev.RequestRouted) and known.number:
            self._remember(known, event)
        said = decision(event, client_of(key), known.model)
        if said is not None:
            client, _, request_id = key.partition("/")
            node, number = getattr(event, "node", ""), known.number
            row = Decision(position, grid.server_ms, said[0], node, client, request_id, number, said[1])
            self.decisions.append(row)
        if key and key not in grid.open:
            self._open.pop(key, None)

    def _remember(self, known: Known, event: ev.RequestRouted) -> None:
        self.routed.pop(known.number, None)
        self.routed[known.number] = Routed(event.request, known.model, event)
        while len(self.routed) > MOST_ROUTED:
            del self.routed[next(iter(self.routed))]

    def _sampled(self, grid: Grid, event: ev.NodeSampled) -> None:
        """Add a point to a node's track, the first sample of each step."""
        points = self.tracks.get(event.node)
        if points is None:
            if event.node not in grid.nodes or len(self.tracks) >= MOST_TRACKS:
                return
            self.tracks = {node: row for node, row in self.tracks.items() if node in grid.nodes}
            points = self.tracks[event.node] = deque(maxlen=POINTS)
        now_ms = grid.server_ms
        if not points or points[-1].point[0] // STEP_MS < now_ms // STEP_MS:
            points.append(Point(grid.position, (now_ms, event.temp_mc, ram_permille(event))))

    def add_before(self, grid: Grid, rows: RecentRows) -> None:
        """Add what another one knows of the same log, as far as it is older than what is known here.
        `grid`: as it is now."""
        if self.since is None or self.since < rows.since or self.since > rows.position:
            return
        older = [each for each in rows.decisions if each.position <= self.since]
        newer = [each for each in self.decisions if each.position > self.since]
        self.decisions = deque((*older, *newer), MOST_DECISIONS)
        for node, points in rows.tracks.items():
            mine = [each for each in self.tracks.get(node, ()) if each.position > self.since]
            before = [each for each in points if each.position <= self.since]
            self.tracks[node] = deque((*before, *mine), POINTS)
        self.add_ticks(grid, rows.ticks)
        older_routed = {n: row for n, row in rows.routed.items() if n not in self.routed}
        self.routed = dict(list({**older_routed, **self.routed}.items())[-MOST_ROUTED:])
        self.since = rows.since

    def add_ticks(self, grid: Grid, ticks: Iterable[Tick]) -> None:
        """Add ticks that were found in what was before."""
        since = self.since or 0
        self.ticks.add(grid, (each for each in ticks if each.position <= since))

    def rows(self) -> RecentRows:
        """Return all of it as a value."""
        return RecentRows(
            self.since or 0,
            self.position or 0,
            {node: list(points) for node, points in self.tracks.items()},
            list(self.decisions),
            self.ticks.ticks,
            self.routed,
        )

    def knows_after(self, position: int) -> bool:
        """Whether it knows all that came after a position."""
        return self.since is not None and self.since <= position <= (self.position or 0)

    def track_after(self, position: int, now_ms: int) -> dict[str, list[TrackPoint]]:
        """Return the points after a position, of the last TRACK_MS."""
        from_ms = now_ms - TRACK_MS
        return {
            node: [each.point for each in points if each.position > position and each.point[0] >= from_ms]
            for node, points in self.tracks.items()
        }

    def decisions_after(self, position: int) -> list[Decision]:
        """Return the decisions after a position, the oldest first."""
        return after(self.decisions, position)

    def ticks_after(self, position: int) -> list[Tick]:
        """Return the ticks after a position."""
        return after(self.ticks.ticks, position)

    def since_ms(self, node: str, kind: str) -> int | None:
        """Return since when something lasts on a node; None if that is not known."""
        found = self.ticks.open.get((node, kind))
        return found.ms if found is not None else None


def after(rows: Iterable[Row], position: int) -> list[Row]:
    """Return rows after a position."""
    return [each for each in rows if each.position > position]
