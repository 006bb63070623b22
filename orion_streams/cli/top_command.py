"""`orion top`: the page of the gateway for a terminal."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.cli import grid_discovery
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.cli.tables import make_console
from orion_streams.cli.top_screen import watch
from orion_streams.cli.top_view import Chosen, Frame
from orion_streams.errors import EXIT_OK, BackendError, ConfigError
from orion_streams.eventlog.loader import load, position_at
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.gateway.page_recent import TRACK_MS
from orion_streams.gateway.page_rows import View
from orion_streams.gateway.page_sentence import AWAY_MS
from orion_streams.gateway.page_view import whole
from orion_streams.runtime.connection import connect

ONCE_S = 60.0


async def run(*, once: bool, interval_s: float, common: CommonOptions) -> int:
    """Show the grid until q or Ctrl-C; `once`: one frame, or its data. Raises BackendError, ConfigError,
    LogError for a log that cannot be folded."""
    if not once and not sys.stdout.isatty():
        raise ConfigError("stdout is no terminal: `orion top --once` prints one frame")
    config = grid_discovery.find(common.redis_url, common.config_path)
    redis = connect(config.redis.url)
    try:
        store = RedisLog(redis, config.prefix)
        if not (await load(store)).grid.position and once:
            raise BackendError(f"{store.key('log')} is empty: no router has run on this Redis yet")
        listener = RecentListener(start=await some_minutes_ago(store))
        source = ViewSource(GridFollower(redis, config.prefix, listeners=(listener,)), listener)
        with quiet():
            async with following(source.follower) as task:
                if not once:
                    return await watch(source.view_or_none, task, interval_s)
                show(await first_view(source, task), common.as_json)
                return EXIT_OK
    finally:
        await redis.aclose()


class ViewSource:
    """Makes the view of what a follower knows now."""

    def __init__(self, follower: GridFollower, listener: RecentListener) -> None:
        self.follower, self._listener = follower, listener

    def view(self) -> View:
        """Return the view now, for somebody who sees everything."""
        follower = self.follower
        return whole(follower.grid, follower.silent_ms, follower.heard_ms_ago, self._listener.recent)

    def view_or_none(self) -> View | None:
        """Return the view; None while the log is being read for the first time."""
        is_known = self.follower.loaded.is_set() or self.follower.heard_ms_ago > AWAY_MS
        return self.view() if is_known else None


async def some_minutes_ago(store: RedisLog) -> int:
    """Return the position from which the last decisions and tracks are read."""
    last = await store.last_position()
    now_ms, _ = await store.read({"log": f"{last}-0"}, 1, 0)
    return max(await position_at(store, now_ms - TRACK_MS), await store.first_position() - 1, 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the follower logs from the screen, which says the same."""
    log, handler = logging.getLogger("orion.gateway"), logging.NullHandler()
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


@asynccontextmanager
async def following(follower: GridFollower) -> AsyncIterator[asyncio.Task[None]]:
    """Let a follower run while the block does."""
    task = asyncio.create_task(follower.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def first_view(source: ViewSource, task: asyncio.Task[None]) -> View:
    """Return the view once the log is read. Raise what ends the follower before, BackendError if it takes
    longer than ONCE_S."""
    loaded = asyncio.create_task(source.follower.loaded.wait())
    done, _ = await asyncio.wait({loaded, task}, timeout=ONCE_S, return_when=asyncio.FIRST_COMPLETED)
    loaded.cancel()
    if task in done:
        task.result()
    if not done:
        raise BackendError(f"the log was not to be read within {ONCE_S:.0f} s")
    return source.view()


def show(view: View, as_json: bool) -> None:
    """Print one frame, or its data."""
    if as_json:
        write_json(view)
    else:
        make_console().print(Frame(view, Chosen(keys=False)))
