"""`orion replay diff`: compare the grid at two moments."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from textwrap import wrap

from msgspec import Struct

from orion_streams.cli import log_sources
from orion_streams.cli.diff_words import chapters, passed
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.model.state import Grid
from orion_streams.replay.compare_states import Change, changes

WIDTH = 100


class Difference(Struct, frozen=True):
    """Two positions and what differs between them."""

    before: int
    after: int
    changes: list[Change]


async def run(*, before: str, after: str, file: str | None, common: CommonOptions) -> int:
    """Compare two moments. Raises BackendError, ConfigError, LogError."""
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        positions = [await log_sources.moment(each, log) for each in (before, after)]
        grids = [(await log.state_at(each)).grid for each in positions]
    found = Difference(positions[0], positions[1], changes(*grids))
    if common.as_json:
        write_json(found)
    else:
        sys.stdout.write("\n".join(page(found, *grids)) + "\n")
    return 0


def page(found: Difference, before: Grid, after: Grid) -> Iterator[str]:
    """Yield the lines for a person."""
    where = f"from position {found.before} to {found.after}"
    if not found.changes:
        yield f"{where}: no changes"
        return
    values = f"{len(found.changes)} value{'' if len(found.changes) == 1 else 's'} changed; --json has each"
    yield f"{where}: {clock(before)} to {clock(after)}{passed(before, after)}"
    for chapter in chapters(before, after):
        yield from ("", chapter.title)
        for line in chapter.lines:
            yield from wrap(
                line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
    yield from ("", values)


def clock(grid: Grid) -> str:
    """Format the time of a moment."""
    if not grid.server_ms:
        return "before the log begins"
    return f"{datetime.fromtimestamp(grid.server_ms / 1000):%H:%M:%S}"
