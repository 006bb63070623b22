"""Writes a node's results, in order, for as long as it takes: a result may be resent, never lost."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.exceptions import RedisError, ResponseError

from orion_streams import wire
from orion_streams.channels import refused, will_pass
from orion_streams.connection import ask, end_if_cancelled
from orion_streams.state import work_order

log = logging.getLogger("orion.agent")

MAX_WAITING = 1000
BATCH = 64
BACK_OFF_MAX_S = 2.0

Waiting = tuple[dict[str, bytes], "asyncio.Future[None]"]


class ResultWriter:
    """One writer per agent. Whatever waits goes out in one round trip; after a lost answer it is sent
    again, which the router takes for what it is. Callers wait, so memory stays bounded."""

    def __init__(self, redis: Any, key: str, keep_entries: int) -> None:
        self._redis, self._key, self._keep = redis, key, keep_entries
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(MAX_WAITING)
        self.last_id = ""

    async def write(self, head: wire.ResultHead, body: dict[str, bytes] | None = None) -> None:
        """Return once the entry is in the stream."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._queue.put(({"head": wire.encode_head(head), **(body or {})}, written))
        await written

    async def look_back(self) -> None:
        """After a cut: claim no entry that the server has lost with its tail. The router would wait for it,
        and a slot with it, until the next result."""
        claimed = self.last_id
        try:
            newest = await self._redis.xrevrange(self._key, count=1)
        except ResponseError:
            return  # whoever writes will say why
        top = newest[0][0].decode() if newest else ""
        if self.last_id == claimed:  # nothing was written meanwhile
            self.last_id = min(claimed, top, key=work_order)

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
        back_off_s = 0.1
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
                return
            if not will_pass(failed):
                raise refused(self._key, failed)
            log.warning("redis takes no results (%s): trying again", type(failed).__name__)
            await asyncio.sleep(back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)

    async def _add(self, batch: list[Waiting]) -> list[Any]:
        """One round trip. The answers, errors among them."""
        head = ("XADD", self._key, "MAXLEN", "~", self._keep, "*")
        return await ask(
            self._redis,
            *((*head, *(part for pair in fields.items() for part in pair)) for fields, _ in batch),
        )
