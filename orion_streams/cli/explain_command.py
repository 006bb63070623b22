"""`orion explain`: the story of one request, from the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from orion_streams.cli import find_request, log_sources
from orion_streams.cli.find_request import Found
from orion_streams.cli.log_lines import Line
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.cli.read_commands import grid_at, warn
from orion_streams.cli.request_names import id_of, request_of
from orion_streams.cli.request_story import Look, Story, as_data, look_at, story_of
from orion_streams.errors import EXIT_OK, LogError, OrionError
from orion_streams.eventlog.jsonl import Row, is_head
from orion_streams.eventlog.loader import CHUNK, decoded
from orion_streams.eventlog.port import Log
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.replay.source import FileSource, LiveSource, Source

WIDTH = 100
"""Longer lines are harder to read."""
LIFE = b'{"event":"request.'
Ended = ev.RequestCompleted | ev.RequestFailed | ev.RequestExpired | ev.RequestCancelled


async def run(*, asked: str | None, common: CommonOptions, file: str | None = None) -> int:
    """Explain the request `asked`, None: the one that was accepted or ended last. Raises OrionError if the
    log has no such request, AmbiguousError, BackendError, ConfigError, LogError."""
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        now, config = await grid_at(log), await log.config()
        found = await (last(log, now.grid) if asked is None else find_request.find(log, now.grid, asked))
        key, lines = found.request, await lines_of(log, found)
        if not lines and key not in now.grid.open:
            raise OrionError(find_request.missing(key, now.grid, (await log.bounds())[0]))
        story = story_of(key, lines, now.grid)
        if story.outcome.state in ("expired", "error"):
            story = replace(story, look=await look_back(log, story))
    if story.deadline_in_ms is not None:
        warn(now)
    if common.as_json:
        write_json(as_data(story))
    else:
        show(story, config.simulated())
    return EXIT_OK


async def last(log: LiveSource | FileSource, grid: Grid) -> Found:
    """Return the request that was accepted or ended last. Raise OrionError if there was none."""
    found: Found | None = None
    first, _ = await log.bounds()
    async for rows in find_request.newest_first(log, first, grid.position):
        for position, raw in rows:
            if raw.startswith(LIFE) and (found is None or position > found.position):
                event = decoded(position, raw)
                if isinstance(event, ev.RequestAccepted | Ended):
                    found = Found(event.request, position)
        if found is not None and isinstance(log, LiveSource):
            break
    if found is None:
        trimmed = f" since position {first}, where what is left of the log begins" if first > 1 else ""
        where = f"{log.name}: " if isinstance(log, FileSource) else ""
        raise OrionError(f"{where}no request was asked yet{trimmed}")
    return replace(found, position=grid.position)


async def lines_of(log: LiveSource | FileSource, wanted: Found) -> list[Line]:
    """Return all lines about a request; of an id used more than once, about the last request only. A live
    log is read backwards, no further than needed."""
    search = Search(wanted.request)
    if isinstance(log, LiveSource):
        await look_backwards(log.store, wanted.position, search)
    else:
        search.take(list(candidates(log, search.needle)))
    return search.found()


async def look_backwards(store: Log, end: int, search: Search) -> None:
    """Search chunk by chunk, backwards, until everything is found."""
    first = max(await store.first_position(), 1)
    while end >= first and not search.is_over:
        after = max(end - CHUNK, first - 1)
        search.take(await store.events(after, end - after))
        end = after


def candidates(log: FileSource, needle: bytes) -> Iterator[Row]:
    """Yield rows that may be about the request, each preceded by the head of its commit."""
    head: Row | None = None
    for stretch in log.read(checked=True):
        for row in stretch.rows:
            if is_head(row[1]):
                head = row
            elif needle in row[1]:
                if head is not None:
                    yield head
                    head = None
                yield row


class Search:
    """Collects the lines of a request from chunks of the log, the last chunk first."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.needle = msgspec.json.encode(id_of(key))[1:]
        self._lines: list[Line] = []
        self._timeless: list[tuple[int, ev.AnyEvent]] = []
        self._is_whole = False

    @property
    def is_over(self) -> bool:
        """Whether everything was found."""
        return self._is_whole and not self._timeless

    def take(self, rows: list[tuple[int, bytes]]) -> None:
        """Search a chunk backwards: the head with the time of an event precedes it."""
        for position, raw in reversed(rows):
            if self.needle in raw and not self._is_whole:
                self._note(position, decoded(position, raw))
            if self._timeless and is_head(raw):
                head = decoded(position, raw)
                self._place(head.server_ms if isinstance(head, ev.Committed) else 0)

    def found(self) -> list[Line]:
        """Return the lines found, in the order of the log."""
        self._place(0)
        return self._lines[::-1]

    def _note(self, position: int, event: ev.AnyEvent) -> None:
        if request_of(event) == self._key:
            self._timeless.append((position, event))
            self._is_whole = isinstance(event, ev.RequestAccepted | ev.RequestRejected | ev.InputRejected)

    def _place(self, server_ms: int) -> None:
        self._lines += [Line(position, server_ms, event) for position, event in self._timeless]
        self._timeless.clear()


async def look_back(log: Source, story: Story) -> Look | None:
    """Return what routing said when the request ended; None if it was not waiting, if routing would have
    continued without the error, or if the log does not reach back."""
    try:
        grid = (await log.state_at(story.outcome.position - 1)).grid
    except LogError:
        return None
    row = grid.open.get(story.request)
    look = look_at(grid, story.request, "end") if row is not None and not row.work_id else None
    goes_on = look is not None and look.kind == "routed"
    return None if goes_on and story.outcome.state == "error" else look


def show(story: Story, simulated: Sequence[str]) -> None:
    """Print the story and which nodes are simulated."""
    from rich.console import Console  # noqa: PLC0415 - rich only where something is drawn
    from rich.text import Text  # noqa: PLC0415 - as above

    from orion_streams.cli.story_view import page  # noqa: PLC0415 - as above

    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    console = Console(highlight=False, soft_wrap=True, width=width)
    for row in page(story, width):
        console.print(Text(row.text, row.style))
    if simulated:
        console.print(Text(f"simulated: {', '.join(simulated)}", "dim"))
