"""The log that a command reads, live or from a file, and the moments in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orion_streams.cli import grid_discovery
from orion_streams.cli.grid_discovery import opened
from orion_streams.errors import BackendError, ConfigError, LogError
from orion_streams.eventlog.jsonl import head_of, is_head
from orion_streams.eventlog.loader import END
from orion_streams.model.toml_values import duration_ms
from orion_streams.replay.export import See
from orion_streams.replay.source import FileSource, LiveSource, Source

NEAR_MS = 60_000
"""How far a time may lie outside of the log: people say 14:05 of a log that begins seconds later. A time
before the first commit means the grid before it, one after the last commit the end."""
DIGITS = 19
"""A number of so many digits is beyond the end of any log."""
MOMENT = "expected a position (1234), a time (14:05:30, 2026-11-26T14:05) or `end`"


@asynccontextmanager
async def source(
    file: str | None, redis_url: str | None, config_path: str | None
) -> AsyncIterator[FileSource | LiveSource]:
    """Open a file, an archive's folder, else a grid's log. Raises ConfigError, BackendError."""
    if file is not None:
        if redis_url is not None:
            raise ConfigError("a file and --redis: name one of them")
        yield file_source(file)
        return
    config = grid_discovery.find(redis_url, config_path)
    async with opened(config) as store:
        if await store.last_position() == 0:
            raise BackendError(f"{store.key('log')} is empty: no router has run on this Redis yet")
        yield LiveSource(store, config)


def file_source(name: str) -> FileSource:
    """Return the log in a file or an archive's folder. Raises ConfigError if it does not exist."""
    try:
        path = Path(name).expanduser()
        if not path.exists():
            raise ConfigError(f"{name}: there is no such file")
    except (OSError, RuntimeError) as error:  # a folder that may not be looked into, an unknown ~user
        raise ConfigError(f"{name}: cannot be looked for: {error}") from error
    return FileSource(path)


def target(name: str) -> Path:
    """Return the path of a file to be written. Raises ConfigError for an unknown ~user."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}: {error}") from error


async def moment(text: str, log: Source, clip: bool = False) -> int:
    """Return the position that a moment means: itself, or the last one not later than a time. A time of day
    means the last such time before the end of the log. Raises ConfigError if `text` is no moment or lies
    outside of the log; with `clip` a time may lie outside."""
    first, last = await log.bounds()
    if text in ("end", "now"):
        return last
    if text.isascii() and text.isdecimal():
        position = int(text) if len(text) < DIGITS else END
        if not first - 1 <= position <= last:
            raise ConfigError(f"{text}: not in the log, which has positions {first} to {last}")
        return position
    ended_ms = (await log.state_at(last)).grid.server_ms
    wanted_ms = in_ms(text, ended_ms)
    low_ms, high_ms = sorted((await first_ms(log), ended_ms))
    if not clip and not low_ms - NEAR_MS <= wanted_ms <= high_ms + NEAR_MS:
        raise ConfigError(f"{text}: not in the log, which goes from {iso(low_ms)} to {iso(high_ms)}")
    return max(await log.position_at(wanted_ms), first - 1)


async def since(text: str, log: FileSource | LiveSource) -> int:
    """Return the position behind which what is asked for begins: `text` is a moment, or a duration such as
    "2h" or "1h30m" before now, of a file before its end. A time before the log means its beginning. Raises
    ConfigError if it is neither."""
    span_ms = None if text.isdecimal() else duration_ms(text)
    if span_ms is None:
        return await moment(text, log, clip=True)
    if span_ms <= 0:
        raise ConfigError(f"{text}: expected a duration of more than nothing, such as 2h")
    first, last = await log.bounds()
    if isinstance(log, LiveSource):
        now_ms, _ = await log.store.read({"log": f"{last}-0"}, 1, 0)
    else:
        now_ms = last_ms(log)
    return max(await log.position_at(now_ms - span_ms), first - 1)


def last_ms(log: FileSource) -> int:
    """Return the time of the last commit in a file."""
    found = 0
    for stretch in log.read():
        for position, raw in reversed(stretch.rows):
            if is_head(raw):
                found = head_of(raw, stretch.place(position)).server_ms
                break
    return found


async def first_ms(log: Source) -> int:
    """Return the time of the first commit that can be folded."""
    async for stretch in log.stretches():
        position, raw = stretch.rows[0]
        return head_of(raw, stretch.place(position)).server_ms
    raise LogError(f"{log.name} is empty")


def iso(ms: int) -> str:
    """Format milliseconds since 1970 as a time that `moment` parses."""
    return datetime.fromtimestamp(ms / 1000).isoformat(timespec="milliseconds")


def is_time_of_day(text: str) -> bool:
    """Return whether a moment is a time without a date."""
    return ":" in text and "-" not in text


def is_to_come(end: str, start: str | None) -> bool:
    """Return whether an end before the start means a time of day in the future: it is one, and at most half
    a day after the start if that is one, too. 23:00 to 01:00 is a night, 23:07 to 23:06 a slip."""
    if not is_time_of_day(end) or start is None or not is_time_of_day(start):
        return is_time_of_day(end)
    first, last = (clock_time.fromisoformat(each.rjust(5, "0")) for each in (start, end))
    a_day = datetime.min
    span = datetime.combine(a_day, last) - datetime.combine(a_day, first)
    return span % timedelta(days=1) <= timedelta(hours=12)


def in_ms(text: str, ended_ms: int) -> int:
    """Parse a time to milliseconds since 1970, in a log that ends at `ended_ms`. Raises ConfigError."""
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        pass
    try:
        time = clock_time.fromisoformat(text.rjust(5, "0"))
    except ValueError:
        raise ConfigError(f"{text or 'an empty moment'}: {MOMENT}") from None
    ended = datetime.fromtimestamp(ended_ms / 1000)
    wanted = datetime.combine(ended.date(), time)
    if wanted > ended + timedelta(milliseconds=NEAR_MS):
        wanted -= timedelta(days=1)
    return round(wanted.timestamp() * 1000)


@contextmanager
def progress(what: str, first: int, last: int) -> Iterator[See]:
    """Show a progress bar over positions on a terminal; nothing in a pipe."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=max(last - first + 1, 1))

        def see(position: int) -> None:
            bar.update(task, completed=position - first + 1)

        yield see
