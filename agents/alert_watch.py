"""What no log tells, seen by the process that sends alerts: no router looks at its inputs, the archive is
behind, a client writes and nobody reads it. None of it is replayed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from orion_streams.agents.alert_sender import Sender
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.archive import last_header, shortfall
from orion_streams.eventlog.loader import END
from orion_streams.eventlog.port import Log
from orion_streams.model.alert_rules import SEEN_LIVE
from orion_streams.model.state import Grid
from orion_streams.projections.alerts import AWAY, Fact, Moment
from orion_streams.protocol.public_row import SILENT_MS
from orion_streams.runtime.connection import end_if_cancelled, in_short
from orion_streams.runtime.unread_streams import unread_streams

log = logging.getLogger("orion.alerts")

LOOK_EVERY_S, SELDOM = 5.0, 12
"""The archive and the clients are looked at in one of so many rounds only."""
Facts = dict[str, Fact]


class Watch:
    """Looks, and tells the sender. `clock`: a monotonic one, in seconds."""

    def __init__(
        self,
        config: Config,
        redis: Any,
        store: Log,
        follower: GridFollower,
        sender: Sender,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._redis, self._store = config, redis, store
        self._follower, self._sender, self._clock = follower, sender, clock
        self._rules = [rule for rule in config.alerts if rule.kind in SEEN_LIVE]
        self._may_look_for_clients = True

    async def run(self) -> None:
        """Look until cancelled."""
        await self._follower.loaded.wait()
        rounds = 0
        while True:
            end_if_cancelled()
            await self.look(seldom=rounds % SELDOM == 0)
            rounds += 1
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, *, seldom: bool) -> None:
        """Judge what can be seen now; `seldom`: also what costs more to see."""
        self._see("no_router", silence(self._follower.silent_ms, self._follower.heard_ms_ago))
        if seldom:
            self._see("archive_behind", await self._tried(self._archive))
            self._see("unread_client", await self._tried(self._unread))
        self._sender.forget_live(self._rules, self._now())

    def _see(self, kind: str, facts: Facts | None) -> None:
        """Judge the rules of a kind; what nobody knows (None) stays as it is."""
        for rule in self._rules:
            if rule.kind == kind and facts is not None:
                self._sender.see(rule, facts, self._now())

    def _now(self) -> Moment:
        position = self._follower.folded.position
        return Moment(round(self._clock() * 1000), round(time.time() * 1000), position)

    async def _tried(self, look: Callable[[], Awaitable[Facts | None]]) -> Facts | None:
        """Look at something; where that fails nobody knows."""
        try:
            return await look()
        except (RedisError, OSError, LogError) as error:
            log.warning("not looked at: %s", in_short(error))
            return None

    async def _archive(self) -> Facts:
        keep = self._config.retention
        if not keep.archive_dir:
            return {}
        folder = Path(keep.archive_dir).expanduser()  # noqa: ASYNC240 - only a name
        try:
            header = await asyncio.to_thread(last_header, folder)
        except LogError as error:
            return {"": Fact(detail=str(error))}
        newest = await self._store.snapshot_before(END)
        older = await self._store.snapshot_before(newest.position - 1) if newest is not None else None
        floor = older.position if older is not None else 0
        reach = header.last if header is not None else 0
        what = shortfall(reach, await self._store.first_position(), floor, keep.snapshot_events)
        return {"": Fact(detail=what)} if what else {}

    async def _unread(self) -> Facts | None:
        if not any(rule.kind == "unread_client" for rule in self._rules):
            return {}
        known = streams_of(self._config, self._follower.folded)
        found = await unread_streams(self._redis, self._config.prefix, known)
        if found is None:
            if self._may_look_for_clients:
                log.warning("clients that nobody reads are not looked for: this user of the server may not")
            self._may_look_for_clients = False
            return None
        return {
            name.removeprefix("requests:"): Fact(entries)
            for name, entries in found.items()
            if name.startswith("requests:") and entries
        }


def silence(silent_ms: int, heard_ms_ago: int) -> Facts:
    """Return for how long no router has looked, if that is too long; of a server that is away nobody knows
    more than that it is."""
    if heard_ms_ago > SILENT_MS:
        return {"": Fact(heard_ms_ago, SILENT_MS, AWAY)}
    return {"": Fact(silent_ms, SILENT_MS)} if silent_ms > SILENT_MS else {}


def streams_of(config: Config, grid: Grid) -> Sequence[str]:
    """Return all streams of the grid, so that those of others stand out."""
    clients = {*config.clients, *grid.guests, *grid.closed}
    nodes = {*config.nodes, *grid.nodes}
    return [
        *(f"{kind}:{name}" for name in clients for kind in ("requests", "parts", "replies")),
        *(f"{kind}:{name}" for name in nodes for kind in ("health", "results", "work")),
    ]
