"""What was before the gateway began to follow: the last minutes for the page, and the ticks of the whole
log, worked out by the worker for the past once somebody looks.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.page_live import Live
from orion_streams.agents.past_messages import Bounds, Question, Scanned
from orion_streams.agents.past_process import PastProcess
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.gateway.page_day import TimeLine
from orion_streams.gateway.page_recent import RecentRows
from orion_streams.gateway.refusal import Refusal

PAUSE_S, AGAIN_S, BOUNDS_S = 0.1, 5.0, 60.0
"""Between two parts of the scan, so that the server serves others; after a failure; between two looks at
where the log begins, while somebody asks."""


log = logging.getLogger("orion.gateway")


class History:
    """Adds what was before to what is followed, in the background."""

    def __init__(
        self, past: PastProcess, follower: GridFollower, listener: RecentListener, live: Live
    ) -> None:
        self._past, self._follower, self._listener, self._live = past, follower, listener, live
        self._asked = asyncio.Event()
        self._bounds = Bounds(0, 0, 0, 0)
        self._is_complete = False
        listener.reset = self._reset

    def _reset(self) -> None:
        """Begin anew: the log does not go on where it was."""
        self._is_complete = False
        self._live.reset()

    def ask(self) -> None:
        """Note that somebody looks."""
        self._asked.set()

    def timeline(self) -> TimeLine:
        """Return the log's ticks as far as they are known."""
        grid, bounds = self._follower.folded, self._bounds
        ticks = self._listener.recent.ticks.ticks
        return TimeLine(
            first=bounds.first,
            last=grid.position,
            from_ms=bounds.from_ms or grid.server_ms,
            to_ms=grid.server_ms,
            complete=self._is_complete,
            ticks=[each for each in ticks if each.position >= bounds.first],
        )

    async def run(self) -> None:
        """Work whenever somebody asks, until cancelled."""
        await self._follower.loaded.wait()
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._work()
            except Refusal as refusal:
                log.debug("what was before is not known yet: %s", refusal)
                if self._live.tabs:
                    self._asked.set()
                await asyncio.sleep(AGAIN_S)
            else:
                await asyncio.sleep(BOUNDS_S if self._is_complete else 0)

    async def _work(self) -> None:
        """Learn where the log begins; what was before, unless that is known. Raise Refusal."""
        self._bounds = msgspec.msgpack.decode(await self._past.ask(Question(op="bounds")), type=Bounds)
        if self._is_complete:
            return
        rows = msgspec.msgpack.decode(await self._past.ask(Question(op="recent")), type=RecentRows)
        self._listener.recent.add_before(self._follower.folded, rows)
        self._live.reset()
        listener, begun = self._listener, self._listener.recent
        while True:
            raw = await self._past.ask(Question(op="scan"))
            found = msgspec.msgpack.decode(raw, type=Scanned)
            if listener.recent is not begun:
                self._asked.set()
                return
            begun.add_ticks(self._follower.folded, found.ticks)
            if found.complete:
                self._is_complete = True
                return
            await asyncio.sleep(PAUSE_S)
