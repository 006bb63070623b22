"""`orion log`: one event per line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import datetime

from msgspec import Struct

from orion_streams.cli import grid_discovery
from orion_streams.cli.grid_discovery import opened
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell
from orion_streams.eventlog.loader import decoded
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import events as ev
from orion_streams.model.events import tag_of
from orion_streams.model.text import describe
from orion_streams.runtime.connection import end_if_cancelled

CHUNK = 500
LAST = 20
BLOCK_MS = 1000


class Line(Struct, frozen=True):
    """An event, its position, and the server's time of its commit (0: unknown)."""

    position: int
    server_ms: int
    event: ev.AnyEvent


async def run(*, follow: bool, start: int | None, count: int | None, common: CommonOptions) -> int:
    """Print events; with --json a list in one line or, with --follow, one object per line."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    async with opened(config) as store:
        first, end = await bounds(store, start, count, follow)
        wanted = lines(store, first, end)
        if common.as_json and not follow:
            sys.stdout.write(f"[{','.join([as_data(line) async for line in wanted])}]\n")
            return 0
        async for line in wanted:
            sys.stdout.write(
                (as_data(line) if common.as_json else as_text(line, sys.stdout.isatty())) + "\n"
            )
            sys.stdout.flush()
    return 0


async def bounds(
    store: RedisLog, start: int | None, count: int | None, follow: bool
) -> tuple[int, int | None]:
    """Return the first and the last position to show; the last is None with `follow`."""
    last, oldest = await store.last_position(), await store.first_position()
    if start is None:
        start = last + 1 - (LAST if count is None else count)
        count = None
    if start < oldest and oldest > 1:
        tell(f"orion: the log begins at position {oldest}; what was before is trimmed")
    first = max(start, oldest, 1)
    if follow:
        return first, None
    return first, last if count is None else min(last, first + count - 1)


async def lines(store: RedisLog, first: int, end: int | None) -> AsyncIterator[Line]:
    """Yield events from a position on; without an `end` wait for new ones. Raises LogError."""
    server_ms = await commit_time(store, first)
    position = first - 1
    while end is None or position < end:
        count = CHUNK if end is None else min(CHUNK, end - position)
        found = await store.events(position, count)
        if not found:
            if end is not None:
                return
            await store.read({"log": f"{position}-0"}, 1, BLOCK_MS)
            end_if_cancelled()
        for position, raw in found:
            event = decoded(position, raw)
            server_ms = event.server_ms if isinstance(event, ev.Committed) else server_ms
            yield Line(position, server_ms, event)


async def commit_time(store: RedisLog, position: int) -> int:
    """Return the server's time of the commit at a position; 0 if its head is trimmed or more than CHUNK
    events before."""
    after = max(position - CHUNK, await store.first_position(), 1) - 1
    heads = [decoded(at, raw) for at, raw in await store.events(after, position - after)]
    return next((head.server_ms for head in reversed(heads) if isinstance(head, ev.Committed)), 0)


def as_data(line: Line) -> str:
    """Format an event as JSON: position and time first, then its own fields."""
    rest = ev.encode(line.event).decode()[1:]
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
