"""`orion log export`: write a part of the log to a file."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_result
from orion_streams.errors import ConfigError
from orion_streams.replay.export import export
from orion_streams.replay.source import Source


class Exported(Struct, frozen=True):
    """What was written, and to which file."""

    file: str
    first: int
    last: int
    segments: int
    bytes: int


async def run(
    *,
    target: str,
    start: str | None,
    end: str | None,
    force: bool,
    file: str | None,
    common: CommonOptions,
) -> int:
    """Export what lies between two moments. Raises BackendError, ConfigError, LogError; no file then."""
    path = log_sources.target(target)
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        low, high = await log.bounds()
        first = low if start is None else await after(start, log)
        last = high if end is None else await log_sources.moment(end, log, clip=True)
        if end is not None and last < first and log_sources.is_to_come(end, start):
            last = high
        if not low <= first <= last <= high:
            part = f"{start or 'the beginning'} to {end or 'the end'} (positions {first} to {last})"
            raise ConfigError(f"{part}: nothing of {log.name}, which has positions {low} to {high}")
        with log_sources.progress("exporting", first, last) as see:
            moved = await export(log, path, first=first, last=last, see=see, force=force)
    done = Exported(target, moved.first, moved.last, moved.segments, path.stat().st_size)
    text = f"positions {moved.first} to {moved.last}, {done.bytes} bytes: {target}"
    write_result(done, text, common.as_json)
    return 0


async def after(text: str, log: Source) -> int:
    """Return the position that --from means: itself, or the first one later than a time. A time without a
    date must lie within the log: one in the future would mean yesterday and export everything."""
    position = await log_sources.moment(text, log, clip=not log_sources.is_time_of_day(text))
    return position if text.isdecimal() else position + 1
