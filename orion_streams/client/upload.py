"""The parts of a request's images on their way to the grid."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec


class Upload:
    """Parts that stand before their request. Nobody but their request needs them, so they may be written
    twice."""

    def __init__(self, texts: tuple[str, ...] = ()) -> None:
        self._texts = texts
        self._ids: list[bytes] = []
        self._writing = asyncio.Lock()

    async def fields(self, redis: Any, stream: str) -> dict[str, str]:
        """Write what is not written, and return what the request says of it. After a cut all is written
        anew, unless it stands. Raises RedisError."""
        if not self._texts:
            return {}
        async with self._writing:
            return {"parts": msgspec.json.encode(await self._written(redis, stream)).decode()}

    async def _written(self, redis: Any, stream: str) -> list[str]:
        stand = [await self._stands(redis, stream, which) for which in (0, -1) if self._ids]
        if not all(stand):
            self._ids.clear()
        while len(self._ids) < len(self._texts):
            text = self._texts[len(self._ids)]
            self._ids.append(await redis.xadd(stream, {"data": text}))
        return [entry_id.decode() for entry_id in self._ids]

    async def _stands(self, redis: Any, stream: str, which: int) -> bool:
        """Whether the first (0) or the last (-1) part that was written is there, unchanged: trims take the
        first ones, a server that loses its tail the last."""
        entry_id = self._ids[which]
        text = self._texts[which % len(self._ids)]
        rows = await redis.xrange(stream, entry_id, entry_id)
        return bool(rows) and rows[0][1] == {b"data": text.encode()}


NO_PARTS = Upload()
