"""`orion nodes`, `models`, `ps` and `plan`: the grid as the log describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_json
from orion_streams.cli.plan_rows import plan_rows
from orion_streams.errors import BackendError
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.port import Log
from orion_streams.gateway import view_models
from orion_streams.gateway.grid_state import moved_on
from orion_streams.model.state import Grid
from orion_streams.replay.source import LiveSource, Source

QUIET_MS = 10_000
"""A router with live nodes commits every second: silence for longer deserves a warning."""


class Now(Struct, frozen=True):
    """The grid at the end of the log with its clock moved on to now, so that old data counts as stale.
    `silence_ms`: time since the last commit, by the server's clock."""

    grid: Grid
    silence_ms: int


MAKERS: dict[str, Callable[[Grid], Any]] = {
    "nodes": view_models.node_rows,
    "models": view_models.model_rows,
    "ps": view_models.ps_rows,
    "plan": plan_rows,
}
"""The function that makes the rows of each read."""


async def run(*, what: str, common: CommonOptions, at: str | None = None, file: str | None = None) -> int:
    """Print one of the reads, now or at a moment. Raises BackendError, ConfigError, LogError."""
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        now, config = await grid_at(log, at), await log.config()
    found = MAKERS[what](now.grid)
    warn(now)
    if common.as_json:
        write_json(found)
        return 0
    from orion_streams.cli import tables  # noqa: PLC0415 - rich only where something is drawn

    tables.show(what, found, config)
    return 0


async def look(store: Log) -> Now:
    """Return the grid now. Raises BackendError if the log is empty."""
    grid = (await load(store)).grid
    if grid.position == 0:
        raise BackendError("the log is empty: no router has run on this Redis yet")
    server_ms, _ = await store.read({"log": f"{grid.position}-0"}, 1, 0)
    return Now(moved_on(grid, server_ms), max(server_ms - grid.server_ms, 0))


async def grid_at(log: Source, at: str | None = None) -> Now:
    """Return the grid at a moment; by default now, of a file at its end."""
    if at is None and isinstance(log, LiveSource):
        return await look(log.store)
    return Now((await log.state_at(await log_sources.moment(at or "end", log))).grid, 0)


def warn(now: Now) -> None:
    """Warn that the data is old if the router has been silent for more than QUIET_MS."""
    if now.silence_ms > QUIET_MS:
        tell(f"orion: the router has committed nothing for {now.silence_ms // 1000} s; this is older data")
