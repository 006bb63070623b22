"""Writes a node's results, in order, for as long as it takes: a result may be resent, never lost."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.exceptions import RedisError

from orion_streams.protocol import agent_entries
from orion_streams.runtime.backoff import OutageLog, reconnect_backoff
from orion_streams.runtime.connection import ask, away, end_if_cancelled, refused, will_pass

log = logging.getLogger("orion.agent")

MAX_WAITING = 1000
BATCH = 64

Waiting = tuple[dict[str, bytes], "asyncio.Future[None]"]


class ResultWriter:
    """Writes what waits in one round trip, and again after a lost answer: the router recognises repeats.
    One per agent. Callers wait, so memory stays bounded. `last_id`: the last entry known to be written."""

    def __init__(self, redis: Any, key: str, keep_entries: int, outages: OutageLog | None = None) -> None:
        self._redis, self._key, self._keep = redis, key, keep_entries
        self._outages = outages or OutageLog(log)
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(MAX_WAITING)
        self.last_id = ""

    async def write(self, head: agent_entries.ResultHead, body: dict[str, bytes] | None = None) -> None:
        """Queue an entry, and return once it is in the stream."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._queue.put(({"head": agent_entries.encode_head(head), **(body or {})}, written))
        await written

    async def run(self) -> None:
        """Write what is queued, until cancelled. Raises ConfigError when Redis refuses it for good."""
        while True:
            end_if_cancelled()
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._send(batch)
            for _, written in batch:
                if not written.done():
                    written.set_result(None)

    async def _send(self, batch: list[Waiting]) -> None:
        backoff = reconnect_backoff()
        while True:
            end_if_cancelled()
            try:
                ids = await self._add(batch)
                failures = [each for each in ids if isinstance(each, RedisError)]
                failed: Exception | None = failures[0] if failures else None
            except (RedisError, OSError) as error:
                failed = error
            if failed is None:
                self.last_id = ids[-1].decode()
                self._outages.worked("results")
                return
            if not will_pass(failed):
                raise refused(self._key, failed)
            self._outages.failed("results", away(failed))
            await asyncio.sleep(backoff.compute(0))

    async def _add(self, batch: list[Waiting]) -> list[Any]:
        """Add all entries in one round trip. Return the answers, errors among them."""
        head = ("XADD", self._key, "MAXLEN", "~", self._keep, "*")
        return await ask(
            self._redis,
            *((*head, *(part for pair in fields.items() for part in pair)) for fields, _ in batch),
        )
