"""Find the one request that a person means, among those that the grid remembers or in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
from msgspec import Struct

from orion_streams.cli import log_sources
from orion_streams.cli.request_names import id_of, is_name, is_short_for, meant, request_of
from orion_streams.errors import AmbiguousError, OrionError
from orion_streams.eventlog.jsonl import Row
from orion_streams.eventlog.loader import CHUNK, decoded
from orion_streams.model.state import Grid
from orion_streams.replay.source import FileSource, LiveSource

MOST = 8
"""So many requests are named where a name means several."""


class Found(Struct, frozen=True):
    """A request, and a position at or behind the last event about it."""

    request: str
    position: int


async def find(log: LiveSource | FileSource, grid: Grid, asked: str) -> Found:
    """Return the one request that is meant: of those that the grid remembers, and if it is none of them of
    all in the log. A whole key in the log comes before what it is short for. Raise AmbiguousError if
    several are meant, OrionError if none is."""
    keys = (*grid.open, *(key for rows in grid.closed.values() for key in rows))
    found = dict.fromkeys(meant(asked, keys), grid.position)
    if not found or ("/" in asked and not any(is_name(asked, key) for key in found)):
        older = await in_log(log, grid.position, asked)
        found = older if not found or asked in older else found
    named = meant(asked, found)
    if len(named) > 1:
        raise AmbiguousError(several(asked, named))
    if not named:
        raise OrionError(missing(asked, grid, (await log.bounds())[0]))
    return Found(named[0], found[named[0]])


def several(asked: str, keys: Sequence[str]) -> str:
    """Say that a name means several requests, and which."""
    what = "the id" if is_name(asked, keys[0]) else "short for the ids"
    more = " and more" if len(keys) > MOST else ""
    return f"{asked} is {what} of several requests, name one: {', '.join(sorted(keys)[:MOST])}{more}"


def missing(asked: str, grid: Grid, first: int) -> str:
    """Say why nothing was found."""
    closed = grid.find_closed(asked)
    if closed is not None:
        return (
            f"{asked} ended as {closed.state} before position {first}, where what is left of the log begins"
        )
    trimmed = f"; what was before position {first} is trimmed" if first > 1 else ""
    return f"the log has no request {asked} between positions {max(first, 1)} and {grid.position}{trimmed}"


async def in_log(log: LiveSource | FileSource, end: int, asked: str) -> dict[str, int]:
    """Return the requests in the log up to `end` with that name, and some of those that it is short for,
    each with the position of an event that no later one about it follows."""
    needle = msgspec.json.encode(id_of(asked) or asked)[1:-1]
    named: dict[str, int] = {}
    short: dict[str, int] = {}
    first, _ = await log.bounds()
    with log_sources.progress("searching", first, end) as see:
        async for rows in newest_first(log, first, end):
            for position, raw in rows:
                key = request_of(decoded(position, raw)) if needle in raw else ""
                if key and is_name(asked, key):
                    named[key] = max(named.get(key, 0), position)
                elif key and is_short_for(asked, key) and (key in short or len(short) <= MOST):
                    short[key] = max(short.get(key, 0), position)
            if asked in named:  # nothing further back is called so as well
                break
            if rows:
                see(first + end - rows[-1][0])
    return named or short


async def newest_first(log: LiveSource | FileSource, first: int, end: int) -> AsyncIterator[list[Row]]:
    """Yield all rows, of a live log backwards from `end`, of a file as they come."""
    if isinstance(log, FileSource):
        for stretch in log.read():
            yield stretch.rows
        return
    while end >= first:
        after = max(end - CHUNK, first - 1)
        yield (await log.store.events(after, end - after))[::-1]
        end = after
