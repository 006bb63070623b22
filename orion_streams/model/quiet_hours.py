"""Quiet hours: times of day between which a node takes nothing new. Pure.

The time of day comes from the server's clock, as the last commit's head has it, and from the offset of
`zone.changed`: no zone table is read. A clock that is wrong makes work wait; no deadline goes by it.
"""

from __future__ import annotations

import re

from orion_streams.model.state import Grid, Node

DAY_MINUTES = 1_440
EXPECTED = 'two different times of day, e.g. "22:00-07:00"'
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


def span(text: str) -> tuple[int, int] | None:
    """Return the first minute of the day that is quiet and the first one that is not any more; None for
    a text that names no such span, or twice the same time."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return None
    hours = [int(each) for each in found.groups()]
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    return (begin, end) if begin != end else None


def fault(text: str) -> str:
    """Return what was expected of the value of `quiet`, or ""."""
    return "" if not text or span(text) is not None else EXPECTED


def local_ms(grid: Grid) -> int:
    """Return the local time of day in ms, by the last commit's head."""
    return (grid.server_ms + grid.zone_s * 1000) % (DAY_MINUTES * 60_000)


def quiet_now(grid: Grid, node: Node) -> tuple[int, int] | None:
    """Return the minute of the day that it is, and the one at which the node's quiet hours end; None
    outside of them."""
    hours = span(node.rules.quiet) if node.rules.quiet else None
    if hours is None:
        return None
    minute, (begin, end) = local_ms(grid) // 60_000, hours
    is_quiet = begin <= minute < end if begin < end else minute >= begin or minute < end
    return (minute, end) if is_quiet else None


def quiet_left_ms(grid: Grid, node: Node) -> int:
    """Return how long the node's quiet hours go on, by local time as it is now; 0 outside of them."""
    found = quiet_now(grid, node)
    return (found[1] * 60_000 - local_ms(grid)) % (DAY_MINUTES * 60_000) if found is not None else 0
