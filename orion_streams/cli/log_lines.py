"""One event of the log as a line, for a person or for --json. Pure."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.events import tag_of
from orion_streams.model.text import describe


class Line(Struct, frozen=True):
    """An event, its position, and the server's time of its commit (0: unknown)."""

    position: int
    server_ms: int
    event: ev.AnyEvent


def as_data(line: Line) -> str:
    """Format an event as JSON: position and time first, then its own fields."""
    rest = event_codec.encode(line.event).decode()[1:]
    time = "" if isinstance(line.event, ev.Committed) else f'"server_ms":{line.server_ms},'
    return f'{{"position":{line.position},{time}{rest}'


def as_text(line: Line, coloured: bool) -> str:
    """Format an event for a person: position, local time, kind, description."""
    kind = tag_of(line.event)
    when = datetime.fromtimestamp(line.server_ms / 1000).isoformat(" ", "milliseconds")
    start, stop = (COLOURS.get(kind, COLOURS.get(kind.partition(".")[0], "")), "\x1b[0m")
    if not coloured or not start:
        start = stop = ""
    return f"{line.position:>7}  {when}  {start}{kind:<20}{stop} {describe(line.event)}"


COLOURS = {
    "committed": "\x1b[2m",
    "node.sampled": "\x1b[2m",
    "node.backed_off": "\x1b[31m",
    "node.breaker_opened": "\x1b[31m",
    "node": "\x1b[32m",
    "model": "\x1b[36m",
    "attempt": "\x1b[33m",
    "request.routed": "\x1b[35m",
    "request.completed": "\x1b[32m",
    "request.failed": "\x1b[31m",
    "request.rejected": "\x1b[31m",
    "request.expired": "\x1b[31m",
    "input": "\x1b[31m",
    "request": "\x1b[34m",
    "policy": "\x1b[1m",
}
"""By the name of the event, else by the part before its dot."""
