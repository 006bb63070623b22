"""Counts, from the raw streams alone, what was asked and what was answered.

It shares no code with what it watches: field names and stream names are all it knows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError

TERMINAL = (b"done", b"error", b"expired", b"cancelled")
COUNT = 500
BLOCK_MS = 200


class Tally(Struct):
    """What the streams show. `by_node` counts answers, `dispatched` runs handed to nodes."""

    requests: int
    answered: int
    lost: int
    duplicate_replies: int
    duplicate_dispatches: int
    rerouted: int
    by_node: dict[str, int]
    dispatched: dict[str, int]


class Observer:
    """Reads `requests:*`, `replies:*` and `work:*` from their beginning, while the grid runs."""

    def __init__(self, redis: Any, prefix: str, clients: list[str], nodes: list[str]) -> None:
        self._redis = redis
        self._cursors: dict[Any, Any] = {
            **{f"{prefix}requests:{name}": "0-0" for name in clients},
            **{f"{prefix}replies:{name}": "0-0" for name in clients},
            **{f"{prefix}work:{name}": "0-0" for name in nodes},
        }
        self._cut = len(prefix)
        self._asked: set[tuple[str, bytes]] = set()
        self._rejected: set[tuple[str, bytes]] = set()
        self._ends: Counter[tuple[str, bytes]] = Counter()
        self._restarted: set[tuple[str, bytes]] = set()
        self._by_node: Counter[str] = Counter()
        self._runs: Counter[tuple[str, bytes]] = Counter()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch in the background."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> Tally:
        """Read to the end of all streams; what they show."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while await self._read(block_ms=None):
            pass
        return self.tally()

    def answered_so_far(self) -> int:
        """Requests with a terminal reply."""
        return len(self._ends)

    def tally(self) -> Tally:
        """The counts at this moment."""
        accepted = self._asked - self._rejected
        runs = Counter(stream.partition(":")[2] for stream, _ in self._runs)
        return Tally(
            requests=len(self._asked),
            answered=len(self._ends),
            lost=len(accepted - self._ends.keys()),
            duplicate_replies=sum(count - 1 for count in self._ends.values()),
            duplicate_dispatches=sum(count - 1 for count in self._runs.values()),
            rerouted=len(self._restarted),
            by_node=dict(sorted(self._by_node.items())),
            dispatched=dict(sorted(runs.items())),
        )

    async def _watch(self) -> None:
        while True:
            try:
                await self._read(BLOCK_MS)
            except (RedisConnectionError, OSError):
                await asyncio.sleep(0.2)

    async def _read(self, block_ms: int | None) -> bool:
        answer = await self._redis.xread(self._cursors, count=COUNT, block=block_ms)
        for key, entries in answer or ():
            self._cursors[key.decode()] = entries[-1][0].decode()
            for entry_id, fields in entries:
                self._see(key.decode()[self._cut :], entry_id, fields)
        return bool(answer)

    def _see(self, stream: str, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        kind, _, owner = stream.partition(":")
        name = (owner, fields.get(b"id", entry_id))
        if kind == "requests" and b"cancel" not in fields:
            self._asked.add(name)
        elif kind == "work" and b'"op":"run"' in fields.get(b"head", b""):
            self._runs[(stream, fields[b"head"])] += 1
        elif kind == "replies":
            what = fields.get(b"kind", b"")
            if what in TERMINAL:
                self._ends[name] += 1
                self._by_node[fields.get(b"node", b"").decode() or what.decode()] += 1
            elif what == b"restarted":
                self._restarted.add(name)
            elif what == b"rejected":
                self._rejected.add(name)
