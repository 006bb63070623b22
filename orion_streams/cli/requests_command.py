"""`orion requests`: what ended, from the log."""

from __future__ import annotations

from collections.abc import Sequence

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.cli.requests_summary import Asked, Ended, Summary
from orion_streams.errors import EXIT_OK, LogError
from orion_streams.eventlog.loader import fold_each
from orion_streams.model.names import full_model_name
from orion_streams.model.state import Grid
from orion_streams.projections.ended_requests import EndedRequests
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import FileSource, LiveSource, placed

RECENT = "24h"
"""So much of a live log is read by default; a file is read whole."""


async def run(
    *,
    clients: Sequence[str],
    models: Sequence[str],
    failed: bool,
    slowest: bool,
    limit: int,
    since: str | None,
    file: str | None,
    common: CommonOptions,
) -> int:
    """Print what ended. Raises BackendError, ConfigError, LogError."""
    asked = Asked(frozenset(clients), frozenset(map(full_model_name, models)), failed, slowest, limit)
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        if since is None and isinstance(log, LiveSource):
            since = RECENT
        after = await log_sources.since(since, log) if since is not None else 0
        found, config = await ended(log, after, asked), await log.config()
    if common.as_json:
        write_json(found)
        return EXIT_OK
    from orion_streams.cli import requests_view  # noqa: PLC0415 - rich only where something is drawn

    requests_view.show(found, config.simulated())
    return EXIT_OK


async def ended(log: LiveSource | FileSource, after: int, asked: Asked) -> Ended:
    """Return what ended beyond a position; 0: of all that can be folded. Raise LogError."""
    first, last = await log.bounds()
    state = await log.state_at(after) if after >= max(first, 1) else None
    since_ms = state.grid.server_ms if state is not None else 0
    follower = EndedRequests(state.grid) if state is not None else None
    summary = Summary(asked)
    with log_sources.progress("reading", max(after, first), last) as see:
        async for stretch in log.stretches(after if state is not None else 0):
            if state is None:
                state = stretch.state() or LoggedGrid(Grid())
                follower = EndedRequests(state.grid)
            with placed(stretch, state):
                for _, event in fold_each(state, stretch.rows):
                    row = follower.take(state.grid, event) if follower is not None else None
                    if row is not None:
                        summary.take(row)
                    since_ms = since_ms or state.grid.server_ms
            see(stretch.rows[-1][0])
    if state is None:
        raise LogError(f"{log.name} is empty: nothing has ended there")
    return summary.ended(after, since_ms, state.grid.position, state.grid.server_ms)
