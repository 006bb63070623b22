"""`orion explain`: the story of one request, from the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

import msgspec

from orion_streams.cli import log_sources
from orion_streams.cli.log_lines import Line
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_json
from orion_streams.cli.read_commands import grid_at, warn
from orion_streams.cli.request_story import Look, Story, as_data, look_at, story_of
from orion_streams.errors import EXIT_OK, EXIT_USAGE, LogError, OrionError
from orion_streams.eventlog.jsonl import Row, is_head
from orion_streams.eventlog.loader import CHUNK, decoded
from orion_streams.eventlog.port import Log
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.replay.source import FileSource, LiveSource, Source

WIDTH = 100
"""Longer lines are harder to read."""


async def run(*, asked: str, common: CommonOptions, file: str | None = None) -> int:
    """Explain the request `asked`, client/id or id. Return EXIT_USAGE if several clients have that id.
    Raises OrionError if the log has no such request, BackendError, ConfigError, LogError."""
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        now, config = await grid_at(log), await log.config()
        found = await find(log, now.grid, asked)
        if len(found) > 1:
            tell(f"orion: {asked} is the id of several requests, name one: {', '.join(sorted(found))}")
            return EXIT_USAGE
        key, lines = next(iter(found.items()), (asked, []))
        if not lines and key not in now.grid.open:
            raise OrionError(missing(key, now.grid, (await log.bounds())[0]))
        story = story_of(key, lines, now.grid)
        if story.outcome.state in ("expired", "error"):
            story = msgspec.structs.replace(story, look=await look_back(log, story))
    if story.deadline_in_ms is not None:
        warn(now)
    if common.as_json:
        write_json(as_data(story))
    else:
        show(story, config.simulated())
    return EXIT_OK


async def find(log: LiveSource | FileSource, grid: Grid, asked: str) -> dict[str, list[Line]]:
    """Return the lines of all requests with that name, by request; of an id used more than once, the last
    request only. An id without a client means the remembered requests, and only if there is none any
    request in the log. A live log is read backwards from the position of the grid, no further than
    needed."""
    search = Search(asked, remembered(grid, asked))
    if isinstance(log, LiveSource):
        await look_backwards(log.store, grid.position, search)
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


def remembered(grid: Grid, asked: str) -> set[str]:
    """Return the requests with that name that are open, or closed and not yet forgotten."""
    keys = {*grid.open, *(key for rows in grid.closed.values() for key in rows)}
    return {asked} if asked in keys else {key for key in keys if key.partition("/")[2] == asked}


class Search:
    """Collects the lines of requests from chunks of the log, the last chunk first."""

    def __init__(self, asked: str, goal: set[str]) -> None:
        self._asked, self._goal = asked, goal
        self.needle = msgspec.json.encode(asked.partition("/")[2] or asked)[1:]
        self._lines: dict[str, list[Line]] = {key: [] for key in goal}
        self._whole: set[str] = set()
        self._timeless: list[tuple[str, int, ev.AnyEvent]] = []

    @property
    def is_over(self) -> bool:
        """Whether everything was found."""
        whole = self._goal <= self._whole if self._goal else self._asked in self._whole
        return whole and not self._timeless

    def take(self, rows: list[tuple[int, bytes]]) -> None:
        """Search a chunk backwards: the head with the time of an event precedes it."""
        for position, raw in reversed(rows):
            if self.needle in raw:
                self._note(position, decoded(position, raw))
            if self._timeless and is_head(raw):
                head = decoded(position, raw)
                self._place(head.server_ms if isinstance(head, ev.Committed) else 0)

    def found(self) -> dict[str, list[Line]]:
        """Return the lines found, in the order of the log."""
        self._place(0)
        return {key: lines[::-1] for key, lines in self._lines.items()}

    def _note(self, position: int, event: ev.AnyEvent) -> None:
        key = request_of(event)
        called_so = self._asked in (key, key.partition("/")[2])
        if not key or not called_so or key in self._whole or (self._goal and key not in self._goal):
            return
        self._timeless.append((key, position, event))
        if isinstance(event, ev.RequestAccepted | ev.RequestRejected | ev.InputRejected):
            self._whole.add(key)

    def _place(self, server_ms: int) -> None:
        for key, position, event in self._timeless:
            self._lines.setdefault(key, []).append(Line(position, server_ms, event))
        self._timeless.clear()


def request_of(event: ev.AnyEvent) -> str:
    """Return the request that an event is about. A malformed entry is named by its entry id."""
    if isinstance(event, ev.InputRejected):
        kind, _, client = event.stream.partition(":")
        return f"{client}/{event.entry_id}" if kind == "requests" else ""
    return str(getattr(event, "request", ""))


def missing(asked: str, grid: Grid, first: int) -> str:
    """Say why nothing was found."""
    closed = grid.find_closed(asked)
    if closed is not None:
        return (
            f"{asked} ended as {closed.state} before position {first}, where what is left of the log begins"
        )
    trimmed = f"; what was before position {first} is trimmed" if first > 1 else ""
    return f"the log has no request {asked} between positions {max(first, 1)} and {grid.position}{trimmed}"


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
