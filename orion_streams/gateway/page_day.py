"""A node's day: temperature, memory and load, and when it took nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from orion_streams.gateway.page_rows import Tick
from orion_streams.gateway.page_ticks import LASTING

DAY_MS, STEP_MS = 86_400_000, 60_000
MOST_POINTS = DAY_MS // STEP_MS + 1

DayPoint = tuple[int, int | None, int, int]
"""The moment in ms, temperature in mc (None: none is known), used memory and load in thousandths."""


class Band(Struct, frozen=True):
    """A time in which something held the node back; `to_ms` is the end of the day for what lasts."""

    from_ms: int
    to_ms: int
    what: str


class Day(Struct, frozen=True):
    """A node's day up to `to_ms`: a point a minute."""

    node: str
    from_ms: int
    to_ms: int
    points: list[DayPoint]
    ticks: list[Tick] = []
    bands: list[Band] = []


class TimeLine(Struct, frozen=True):
    """The whole log: its positions and times, and what went wrong; `complete`: all of it was read."""

    first: int
    last: int
    from_ms: int
    to_ms: int
    complete: bool
    ticks: list[Tick]


def with_ticks(day: Day, ticks: Iterable[Tick]) -> Day:
    """Return the day with what went wrong on its node in it, or before and still lasts."""
    mine = [
        each
        for each in ticks
        if each.node == day.node and each.ms <= day.to_ms and (each.until_ms or each.ms) >= day.from_ms
    ]
    bands = [
        Band(max(each.ms, day.from_ms), min(each.until_ms or day.to_ms, day.to_ms), each.text)
        for each in mine
        if each.kind in LASTING
    ]
    shown = [each for each in mine if each.ms >= day.from_ms]
    return Day(day.node, day.from_ms, day.to_ms, day.points, shown, bands)
