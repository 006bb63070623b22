"""`orion log` and `orion log tail`: one event per line."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator

from orion_streams.cli import grid_discovery, log_sources
from orion_streams.cli.grid_discovery import opened
from orion_streams.cli.log_lines import Line, as_data, as_text
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell
from orion_streams.errors import ConfigError
from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import CHUNK, decoded
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import events as ev
from orion_streams.replay.source import FileSource, Source
from orion_streams.runtime.connection import end_if_cancelled

LAST = 20
BLOCK_MS = 1000


async def run(
    *, follow: bool, start: int | None, count: int | None, common: CommonOptions, file: str | None = None
) -> int:
    """Print events of a live log: with --json a list in one line or, with `follow`, one object per line. Of
    a file print the last `count` events. Raises BackendError, ConfigError, LogError."""
    if file is not None:
        async with log_sources.source(file, common.redis_url, common.config_path) as log:
            for line in last_lines(log, count):
                show(line, common.as_json)
        return 0
    config = grid_discovery.find(common.redis_url, common.config_path)
    async with opened(config) as store:
        first, end = await bounds(store, start, count, follow)
        wanted = lines(store, first, end)
        if common.as_json and not follow:
            sys.stdout.write(f"[{','.join([as_data(line) async for line in wanted])}]\n")
            return 0
        async for line in wanted:
            show(line, common.as_json)
    return 0


def show(line: Line, as_json: bool) -> None:
    """Print a line."""
    sys.stdout.write((as_data(line) if as_json else as_text(line, sys.stdout.isatty())) + "\n")
    sys.stdout.flush()


def last_lines(log: Source, count: int | None) -> Iterator[Line]:
    """Yield the last events of a file, all of which is verified. Raises LogError."""
    assert isinstance(log, FileSource)  # noqa: S101 - the source was opened by the name of a file
    found: deque[tuple[int, int, bytes]] = deque(maxlen=count)
    server_ms = 0
    for stretch in log.read(checked=True):
        for position, raw in stretch.rows:
            if is_head(raw):
                head = decoded(position, raw)
                server_ms = head.server_ms if isinstance(head, ev.Committed) else server_ms
            found.append((position, server_ms, raw))
    for position, server_ms, raw in found:
        yield Line(position, server_ms, decoded(position, raw))


async def bounds(
    store: RedisLog, start: int | None, count: int | None, follow: bool
) -> tuple[int, int | None]:
    """Return the first and the last position to show; the last is None with `follow`."""
    last, oldest = await store.last_position(), await store.first_position()
    if start is not None and start > last > 0 and not follow:
        raise ConfigError(f"nothing from position {start} on: the log ends at position {last}")
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
    """Return the server's time of the commit at a position; 0 if its head is not within CHUNK events."""
    after = max(position - CHUNK, await store.first_position(), 1) - 1
    heads = [decoded(at, raw) for at, raw in await store.events(after, position - after)]
    return next((head.server_ms for head in reversed(heads) if isinstance(head, ev.Committed)), 0)
