"""`orion log` and `orion log tail`: one event per line."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator

from orion_streams.cli import find_request, grid_discovery, log_sources
from orion_streams.cli.grid_discovery import opened
from orion_streams.cli.log_filter import LogFilter, Wanted, event_names
from orion_streams.cli.log_lines import Line, as_data, as_text
from orion_streams.cli.options import CommonOptions, Filters
from orion_streams.cli.outcome import tell
from orion_streams.errors import ConfigError, LogError
from orion_streams.eventlog.loader import CHUNK, decoded, load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import events as ev
from orion_streams.model.names import full_model_name
from orion_streams.model.state import Grid
from orion_streams.replay.export import See
from orion_streams.replay.source import FileSource, LiveSource
from orion_streams.runtime.connection import end_if_cancelled

LAST = 20
BLOCK_MS = 1000
FIRST_REACH, WIDER = 2_000, 8
"""How many events are searched for the last ones that are wanted, and how many times more if they are too
few."""


async def run(
    *,
    follow: bool,
    start: int | None,
    count: int | None,
    common: CommonOptions,
    file: str | None = None,
    filters: Filters = Filters(),  # noqa: B008 - frozen
) -> int:
    """Print events of a live log: with --json a list in one line or, with `follow`, one object per line. Of
    a file print the last `count` events. Raises AmbiguousError, BackendError, ConfigError, LogError."""
    event_names(filters.events)
    if file is not None:
        async with log_sources.source(file, common.redis_url, common.config_path) as log:
            assert isinstance(log, FileSource)  # noqa: S101 - the source was opened by the name of a file
            for line in last_lines(log, count, await wanted_of(log, filters, follow=False)):
                show(line, common.as_json)
        return 0
    config = grid_discovery.find(common.redis_url, common.config_path)
    async with opened(config) as store:
        wanted = await wanted_of(LiveSource(store, config), filters, follow)
        found = lines(store, *await bounds(store, start, count, follow, wanted), wanted)
        shown = noticed(found if start is None or follow else limited(found, count), wanted)
        if common.as_json and not follow:
            sys.stdout.write(f"[{','.join([as_data(line) async for line in shown])}]\n")
            return 0
        async for line in shown:
            show(line, common.as_json)
    return 0


async def wanted_of(log: LiveSource | FileSource, filters: Filters, follow: bool) -> Wanted:
    """Return what is wanted, with the requests by their whole names. A log that is followed leaves samples
    out by default. Raises AmbiguousError, OrionError for an unknown request."""
    keys = set()
    if filters.requests or filters.nodes:
        _, last = await log.bounds()
        grid = (await log.state_at(last)).grid
        keys = {(await find_request.find(log, grid, asked)).request for asked in filters.requests}
        known = {*grid.nodes, *(await log.config()).nodes}
        for name in sorted({*filters.nodes} - known):
            tell(unknown_node(name, known))
    return Wanted(
        events=event_names(filters.events),
        nodes=frozenset(filters.nodes),
        requests=frozenset(keys),
        models=frozenset(map(full_model_name, filters.models)),
        samples=not follow if filters.samples is None else filters.samples,
    )


def unknown_node(name: str, known: Collection[str]) -> str:
    """Say that a node is known nowhere: the log may still have one that was removed long ago."""
    are = f"; known are {', '.join(sorted(known))}" if known else ""
    return f"orion: --node {name}: the grid and its configuration have no such node{are}"


def show(line: Line, as_json: bool) -> None:
    """Print a line."""
    sys.stdout.write((as_data(line) if as_json else as_text(line, sys.stdout.isatty())) + "\n")
    sys.stdout.flush()


def last_lines(log: FileSource, count: int | None, wanted: Wanted) -> Iterator[Line]:
    """Yield the last events of a file that are wanted; all of it is verified. Raises LogError."""
    shown: deque[Line] = deque(maxlen=count)
    picked: LogFilter | None = None
    server_ms = 0
    for stretch in log.read(checked=True):
        if picked is None:
            state = stretch.state()
            picked = LogFilter(wanted, state.grid if state is not None else Grid())
        for position, raw in stretch.rows:
            event = decoded(position, raw)
            server_ms = event.server_ms if isinstance(event, ev.Committed) else server_ms
            shown.extend(picked.take(Line(position, server_ms, event)))
    yield from shown


async def bounds(
    store: RedisLog, start: int | None, count: int | None, follow: bool, wanted: Wanted
) -> tuple[int, int | None]:
    """Return the first and the last position to look at; the last is None with `follow`."""
    last, oldest = await store.last_position(), await store.first_position()
    if start is not None and start > last > 0 and not follow:
        raise ConfigError(f"nothing from position {start} on: the log ends at position {last}")
    if start is None:
        start = await reach(store, oldest, last, LAST if count is None else count, wanted)
    if start < oldest and oldest > 1:
        tell(f"orion: the log begins at position {oldest}; what was before is trimmed")
    return max(start, oldest, 1), None if follow else last


async def reach(store: RedisLog, oldest: int, last: int, count: int, wanted: Wanted) -> int:
    """Return the position from which the log has its last `count` events that are wanted, or fewer."""
    if wanted.all_events or not count:
        return last + 1 - count
    count = min(count, max(last, 1))
    width = max(FIRST_REACH, count)
    while True:
        first = max(last + 1 - width, oldest, 1)
        shown: deque[int] = deque(maxlen=count)
        with log_sources.progress("searching", first, last) as see:
            async for line in lines(store, first, last, wanted, see):
                shown.append(line.position)
        if len(shown) == count:
            return shown[0]
        if first <= max(oldest, 1):
            return first
        width *= WIDER


async def noticed(found: AsyncIterator[Line], wanted: Wanted) -> AsyncIterator[Line]:
    """Yield all lines, and say so if the filters let none through."""
    is_any = wanted.any_event
    async for line in found:
        is_any = True
        yield line
    if not is_any:
        tell("orion: no event in the log is like that")


async def limited(found: AsyncIterator[Line], count: int | None) -> AsyncIterator[Line]:
    """Yield the first `count` lines."""
    left = sys.maxsize if count is None else count
    if left > 0:
        async for line in found:
            yield line
            left -= 1
            if left <= 0:
                return


async def lines(
    store: RedisLog, first: int, end: int | None, wanted: Wanted, see: See = lambda _: None
) -> AsyncIterator[Line]:
    """Yield the events from a position on that are wanted; without an `end` wait for new ones. Raises
    LogError."""
    server_ms = await commit_time(store, first)
    picked = LogFilter(wanted, Grid() if wanted.any_subject else await table_before(store, first))
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
            for line in picked.take(Line(position, server_ms, event)):
                yield line
        see(position)


async def table_before(store: RedisLog, position: int) -> Grid:
    """Return the table before a position; an empty one if the log does not reach back."""
    try:
        return (await load(store, position - 1)).grid
    except LogError:
        return Grid()


async def commit_time(store: RedisLog, position: int) -> int:
    """Return the server's time of the commit at a position; 0 if its head is not within CHUNK events."""
    after = max(position - CHUNK, await store.first_position(), 1) - 1
    heads = [decoded(at, raw) for at, raw in await store.events(after, position - after)]
    return next((head.server_ms for head in reversed(heads) if isinstance(head, ev.Committed)), 0)
