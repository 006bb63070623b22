"""`orion replay diff`: compare the grid at two moments."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.replay.compare_states import Change, changes

WIDTH = 60
COUNTERS = ("heard_ms", "sampled_ms", "calm_samples", "work_read")
"""Fields of a node that change with each sample or entry; only --json shows them."""


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
        show(found)
    return 0


def show(found: Difference) -> None:
    """Print one change per line, without the counters."""
    told = [each for each in found.changes if each.path.rpartition(".")[2] not in COUNTERS]
    counted = len(found.changes) - len(told)
    rest = f", and {counted} counters of nodes (--json has them)" if counted else ""
    many = f"{len(told) or 'no'} change{'' if len(told) == 1 else 's'}"
    sys.stdout.write(f"from position {found.before} to {found.after}: {many}{rest}\n")
    for each in told:
        sys.stdout.write(f"{each.path}: {turn(each)}\n")


def turn(change: Change) -> str:
    """Describe a change: from which value to which, or what is new or gone."""
    if change.before is None:
        return f"new: {shown(change.after)}"
    if change.after is None:
        return f"gone: {shown(change.before)}"
    return f"{shown(change.before)} -> {shown(change.after)}"


def shown(value: Any) -> str:
    """Format a value, shortened to WIDTH."""
    text = value if isinstance(value, str) and value else msgspec.json.encode(value).decode()
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
