"""The page's live streams: one view a second is built for all tabs, and encoded once for those who see
the same. Nobody is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
from aiohttp import web

from orion_streams.agents.gateway_http import where
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.gateway.failures import RETRY_AFTER_S
from orion_streams.gateway.page_recent import Recent
from orion_streams.gateway.page_rows import PageCaller, View, as_seen_by
from orion_streams.gateway.page_sentence import AWAY_MS
from orion_streams.gateway.page_view import news_after, whole
from orion_streams.gateway.refusal import Refusal

log = logging.getLogger("orion.gateway")

BEAT_S = 1.0
"""Between two views, also while Redis is away."""
SLOW_S = 5.0
"""A tab that takes nothing for so long is dropped; it connects again by itself."""
MOST_TABS = 128
RETRY_MS = 2_000
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class Beat:
    """One view for all tabs: what came after position `after`, encoded for each that asks."""

    def __init__(self, view: View, after: int, recent: Recent) -> None:
        self.view, self.after = view, after
        self._news = news_after(view, recent, after) if after else view
        self._recent = recent
        self._encoded: dict[PageCaller, bytes] = {}

    def chunk(self, caller: PageCaller) -> bytes:
        """Return what a tab gets that has all up to `after`."""
        if caller not in self._encoded:
            self._encoded[caller] = encoded(self._news, caller)
        return self._encoded[caller]

    def chunk_after(self, caller: PageCaller, position: int) -> bytes:
        """Return what a tab gets that has all up to another position; 0: nothing."""
        if not position:
            return encoded(self.view, caller)
        return encoded(news_after(self.view, self._recent, position), caller)


def encoded(view: View, caller: PageCaller) -> bytes:
    """Return a view as an event of a stream."""
    return b"id: %d\ndata: %s\n\n" % (view.position, msgspec.json.encode(as_seen_by(view, caller)))


class Live:
    """Builds a view every BEAT_S while anybody looks. `aliases`: other names of models."""

    def __init__(
        self, follower: GridFollower, listener: RecentListener, aliases: Mapping[str, str] | None = None
    ) -> None:
        self._follower, self._listener, self._aliases = follower, listener, aliases or {}
        self._tabs, self._last = 0, 0
        self._opened = asyncio.Event()
        self._latest: tuple[float, Beat] | None = None
        self._next: asyncio.Future[Beat | None] | None = None
        self._stops = False

    @property
    def tabs(self) -> int:
        """How many tabs look."""
        return self._tabs

    def reset(self) -> None:
        """Tell everybody everything with the next view: more is known of what was, or less."""
        self._last, self._latest = 0, None

    def stop(self) -> None:
        """End all streams."""
        self._stops = True
        self._tell(None)

    async def run(self) -> None:
        """Build views until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._opened.wait()
            began_s = loop.time()
            try:
                beat = self._beat()
            except Exception as error:  # the page must not end what answers requests
                log.error("the page's view failed: %s", where(error))
            else:
                self._last, self._latest = beat.view.position, (began_s, beat)
                self._tell(beat)
            await asyncio.sleep(max(began_s + BEAT_S - loop.time(), BEAT_S / 10))

    def _tell(self, beat: Beat | None) -> None:
        """Let all tabs have a view; None: there is no further one."""
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(beat)

    def _now(self) -> Beat:
        """Return the view of now, or of less than BEAT_S ago."""
        if self._latest is not None and asyncio.get_running_loop().time() - self._latest[0] < BEAT_S:
            return self._latest[1]
        return self._beat()

    def _beat(self) -> Beat:
        follower, recent = self._follower, self._listener.recent
        grid, silent_ms, heard_ms_ago = follower.grid, follower.silent_ms, follower.heard_ms_ago
        shown = whole(grid, silent_ms, heard_ms_ago, recent, aliases=self._aliases)
        return Beat(shown, min(self._last, shown.position), recent)

    async def _beaten(self) -> Beat | None:
        """Wait for the next view; None: there is none."""
        if self._stops:
            return None
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def stream(
        self, http: web.Request, caller: PageCaller, still: Callable[[], bool]
    ) -> web.StreamResponse:
        """Write views until the tab goes, or may not look any more (`still`). Raise Refusal if there are
        too many, ConnectionResetError for one that takes nothing."""
        if self._tabs >= MOST_TABS:
            what = f"{MOST_TABS} pages are open, as many as may be"
            raise Refusal(503, what, retry_after_s=RETRY_AFTER_S)
        self._tabs += 1
        self._opened.set()
        try:
            response = web.StreamResponse(headers=HEADERS)
            await response.prepare(http)
            position = resumed(http.headers.get("Last-Event-ID", ""))
            await self._pour(response, caller, position, still)
            return response
        finally:
            self._tabs -= 1
            if not self._tabs:
                self._opened.clear()

    async def _pour(
        self, response: web.StreamResponse, caller: PageCaller, position: int, still: Callable[[], bool]
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(AWAY_MS / 1_000):  # then it is said that Redis is away
                await self._follower.loaded.wait()
        beat = self._now()
        knows = self._listener.recent.knows_after(position)
        first = beat.chunk_after(caller, position if knows else 0)
        await write(response, b"retry: %d\n\n" % RETRY_MS + first)
        position = beat.view.position
        while (told := await self._beaten()) is not None and still():
            has_missed = told.after > position  # it was slow
            await write(response, told.chunk_after(caller, position) if has_missed else told.chunk(caller))
            position = told.view.position


def resumed(header: str) -> int:
    """Return the position that a tab has seen; 0 for none."""
    return int(header) if header.isascii() and header.isdigit() and len(header) <= 15 else 0


async def write(response: web.StreamResponse, raw: bytes) -> None:
    """Write to a tab. Raise ConnectionResetError if it does not take it in SLOW_S."""
    try:
        async with asyncio.timeout(SLOW_S):
            await response.write(raw)
    except TimeoutError as error:
        raise ConnectionResetError(f"the page took nothing for {SLOW_S:g} s") from error
