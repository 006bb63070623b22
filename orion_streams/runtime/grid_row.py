"""Reads the grid's public row, with the server's time."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from orion_streams.protocol.public_row import PublicRow, read_row


async def look(redis: Any, key: str) -> tuple[int, PublicRow | None]:
    """Return the server's time in ms, and the row; None if there is none, or this user may not read it.
    Raise ResponseError if not even the time may be read."""
    seconds, micros = await redis.time()
    try:
        row = read_row(await redis.hgetall(key))
    except ResponseError:  # a user of an older `orion acl`
        row = None
    return int(seconds) * 1000 + int(micros) // 1000, row
