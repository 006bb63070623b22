"""`orion replay diff`: what changed in the grid between two moments."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.cli import sources
from orion_streams.replay.comparing import Change, changes

WIDTH = 60


class Difference(Struct, frozen=True):
    """Two moments by position, and what is not the same."""

    before: int
    after: int
    changes: list[Change]


async def run(
    before: str,
    after: str,
    file: str | None,
    as_json: bool,
    redis_url: str | None,
    config_path: str | None,
) -> int:
    """Compare two moments. Raises BackendError, ConfigError, LogError."""
    async with sources.source(file, redis_url, config_path) as log:
        positions = [await sources.moment(each, log) for each in (before, after)]
        grids = [(await log.state_at(each)).grid for each in positions]
    found = Difference(positions[0], positions[1], changes(*grids))
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return 0
    sys.stdout.write(
        f"from position {found.before} to {found.after}: {len(found.changes) or 'no'} changes\n"
    )
    for change in found.changes:
        sys.stdout.write(f"{change.path}: {shown(change.before)} -> {shown(change.after)}\n")
    return 0


def shown(value: Any) -> str:
    """A value in a line; a row in short."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
