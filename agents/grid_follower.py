"""Follows the log: the folded table of a process that only reads.

A busy grid commits a thousand times a second. What came is folded together, at most every REST_S: whoever
needs the table as it is now asks for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.exceptions import RedisError

from orion_streams.errors import LogError
from orion_streams.eventlog.loader import fold_each, load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.gateway.grid_state import moved_on
from orion_streams.model import events as ev
from orion_streams.model.commit import PUBLIC
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.protocol.public_row import SILENT_MS
from orion_streams.runtime.backoff import OutageLog, reconnect_backoff
from orion_streams.runtime.connection import end_if_cancelled, in_short, will_pass
from orion_streams.runtime.grid_row import look

log = logging.getLogger("orion.gateway")

BLOCK_MS, LOOK_EVERY_S = 1_000, 1.0
REST_S, FRESH_S, CHUNK = 0.05, 0.25, 100
"""After what came was folded; for a fold that somebody waits for; entries that are folded in one go."""
MOST_BEHIND = 200_000
"""So many events before the log's end a listener may go on; from further back it would take too long."""
STEP_MS = 2_000
"""By so much more, or less, than this process has seen pass, the server's clock was put right."""


class LogListener(Protocol):
    """Hears the events that a follower folds."""

    @property
    def position(self) -> int | None:
        """The last event that it knows; None: it wants to begin where the log ends."""

    def begin(self, state: LoggedGrid) -> None:
        """Hear that the log was loaded: the events after this state follow. It is the state at `position`,
        one before it (for another listener), or a later one if the log does not reach back, or that is more
        than MOST_BEHIND; another log, or one that lost its tail, has another digest there."""

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Hear an event that was folded into the grid."""


class GridFollower:
    """Keeps a grid up to date with the log, and knows for how long no router has looked at its inputs.
    `clock`: a monotonic one, in seconds. `listeners` are told what it folds, from their positions on;
    `log`: that of the process that follows."""

    def __init__(
        self,
        redis: Any,
        prefix: str,
        clock: Callable[[], float] = time.monotonic,
        listeners: Sequence[LogListener] = (),
        log: logging.Logger = log,
    ) -> None:
        self._listeners = listeners
        self._redis, self._store, self._row_key = redis, RedisLog(redis, prefix), prefix + PUBLIC
        self._clock = clock
        self._state = LoggedGrid(Grid())
        self._outages = OutageLog(log)
        self._server_ms = self._router_ms = 0
        self._folded_ms = self._heard_ms = self._stepped_ms = 0
        self._looked_s: float | None = None
        self._born_s = clock()
        self.loaded, self._news = asyncio.Event(), asyncio.Event()
        self._folding = asyncio.Lock()

    @property
    def grid(self) -> Grid:
        """The grid as it is now: nodes that are not heard age, whether or not a router commits."""
        return moved_on(self._state.grid, self._now_ms)

    @property
    def folded(self) -> Grid:
        """The grid as the log has it."""
        return self._state.grid

    @property
    def silent_ms(self) -> int:
        """For how long no router has looked, as far as is known; a server that is away counts as well. A
        commit that is folded is as good as a look."""
        if self._looked_s is None or not self._heard_ms:
            return SILENT_MS + 1
        return max(self._now_ms - self._heard_ms, 0)

    @property
    def _is_silent(self) -> bool:
        return self.silent_ms > SILENT_MS

    @property
    def _passed_ms(self) -> int:
        return round((self._clock() - self._looked_s) * 1000) if self._looked_s is not None else 0

    @property
    def _now_ms(self) -> int:
        """The server's time, by the clock that it had when a router was last heard."""
        return self._server_ms + self._passed_ms - self._stepped_ms

    @property
    def heard_ms_ago(self) -> int:
        """How long ago the server answered last; it is asked every second."""
        since_s = self._born_s if self._looked_s is None else self._looked_s
        return round((self._clock() - since_s) * 1000)

    async def heard(self) -> None:
        """Wait until a router has been heard."""
        while self._is_silent:
            await self.news()

    async def news(self) -> None:
        """Wait until there is something new to see."""
        await self._news.wait()

    async def fresh(self) -> None:
        """Fold what the log holds now; a server that does not answer within FRESH_S is not waited for."""
        with suppress(RedisError, OSError, LogError):  # TimeoutError is an OSError
            async with asyncio.timeout(FRESH_S):
                await self._catch_up()

    async def run(self) -> None:
        """Follow until cancelled; while the server is away, try again. Raise RedisError if it refuses."""
        backoff = reconnect_backoff()
        while True:
            end_if_cancelled()
            try:
                await self._follow()
            except (RedisError, OSError, LogError) as error:
                if isinstance(error, RedisError) and not will_pass(error):
                    raise
                self._outages.failed("gateway", in_short(error))
                await asyncio.sleep(backoff.compute(0))

    async def _follow(self) -> None:
        """Load the grid, then fold what comes. Raise LogError if the log was trimmed beyond the grid, or
        lost its tail: then it is loaded again."""
        self._state = await self._load()
        for listener in self._listeners:
            listener.begin(self._state)
        await self._catch_up()
        await self._look()
        self.loaded.set()
        while True:
            end_if_cancelled()
            position = self._state.grid.position
            _, news = await self._store.read({"log": f"{position}-0"}, 1, BLOCK_MS)
            if news:
                await self._catch_up()
                await asyncio.sleep(REST_S)
            if self._is_silent or self._clock() - (self._looked_s or 0) >= LOOK_EVERY_S:
                if not news and await self._store.last_position() < position:
                    raise LogError("the log lost its tail")
                await self._look()
            self._outages.worked("gateway")

    async def _load(self) -> LoggedGrid:
        """Return the state from which the listeners go on, or that at the end of the log if they want that,
        or it is too far back."""
        least = await self._store.last_position() - MOST_BEHIND
        wanted = [at for each in self._listeners if (at := each.position) is not None and at >= least]
        if wanted:
            with suppress(LogError):
                return await load(self._store, min(wanted))
        return await load(self._store)

    async def _catch_up(self) -> None:
        """Fold the log to its end. Raise LogError if it was trimmed beyond the grid."""
        async with self._folding:
            rows: list[tuple[int, bytes]] | None = None
            while rows is None or len(rows) == CHUNK:
                state = self._state
                rows = await self._store.events(state.grid.position, CHUNK)
                for _, event in fold_each(state, rows):
                    for listener in self._listeners:
                        listener.take(state.grid, event)
        if self.folded.server_ms != self._folded_ms:
            self._folded_ms = self.folded.server_ms
            self._hear(self._folded_ms)
        self._tell()

    def _tell(self) -> None:
        """Let whoever waits go on; who waits next waits for the next."""
        self._news.set()
        self._news.clear()

    async def _look(self) -> None:
        """Read the grid's public row and the server's time."""
        now_ms, row = await look(self._redis, self._row_key)
        step_ms = now_ms - self._server_ms - self._passed_ms if self._looked_s is not None else 0
        self._stepped_ms += step_ms if abs(step_ms) > STEP_MS else 0
        self._server_ms, self._looked_s = now_ms, self._clock()
        router_ms = row.looked_ms if row is not None else 0
        if router_ms != self._router_ms:
            self._router_ms = router_ms
            self._hear(router_ms)
        self._tell()

    def _hear(self, at_ms: int) -> None:
        """Note that a router was there, by the server's clock. If that is nearer to its clock as it is now
        than as it was before it was put right, its steps are history, and so is what was heard before."""
        if self._stepped_ms and abs(self._now_ms + self._stepped_ms - at_ms) < abs(self._now_ms - at_ms):
            self._stepped_ms = self._heard_ms = 0
        self._heard_ms = max(self._heard_ms, at_ms)
