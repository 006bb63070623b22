"""Streams under a grid's prefix that nobody reads: of clients and nodes that it does not know."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from redis.exceptions import NoPermissionError

IS_STREAM = re.compile("(requests|parts|replies|work|health|results):[^:]+")
"""What a stream of this grid would be called: another grid's prefix may begin with this one's."""
SCANS, SCAN_KEYS, NAMED = 100, 1_000, 20
"""How far one looks: in so many steps, of so many keys, and so many are named."""


async def unread_streams(redis: Any, prefix: str, known: Collection[str]) -> dict[str, int] | None:
    """Return the entries of each stream that is none of the `known` ones, named without prefix; None if
    this user may not look for them."""
    pattern, cursor = re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix) + "*", 0
    found: dict[str, int] = {}
    try:
        for _ in range(SCANS):
            cursor, some = await redis.scan(cursor, pattern, SCAN_KEYS, "stream")
            names = [key.decode(errors="replace").removeprefix(prefix) for key in some]
            ours = {name for name in names if IS_STREAM.fullmatch(name)}
            for name in sorted(ours - set(known))[: NAMED - len(found)]:
                found[name] = await redis.xlen(prefix + name)
            if not cursor or len(found) == NAMED:
                break
    except NoPermissionError:
        return None
    return found
