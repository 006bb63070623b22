"""The client of the benchmark: a number of concurrent requests, each timed from XADD to answer.

It reads in batches and writes in pipelines, from the grid and from the bare relay alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from msgspec import Struct

from orion_streams.errors import BackendError
from orion_streams.runtime.connection import connect, end_if_cancelled

BLOCK_MS, COUNT, PATIENCE = 1_000, 64, 10


class Timing(Struct, frozen=True):
    """The latency of each request of a round, and the duration of the round."""

    latencies_s: list[float]
    seconds: float

    @property
    def p50_ms(self) -> float:
        return median(self.latencies_s) * 1000

    @property
    def p99_ms(self) -> float:
        """The latency that one in a hundred exceeds."""
        return sorted(self.latencies_s)[len(self.latencies_s) * 99 // 100] * 1000

    @property
    def rps(self) -> float:
        return len(self.latencies_s) / self.seconds


class StreamsLoad:
    """Requests with the same content through one pair of streams."""

    def __init__(self, url: str, requests: str, replies: str, content: Mapping[str, str]) -> None:
        self._redis: Any = connect(url)
        self._requests, self._replies, self._content = requests, replies, dict(content)
        self._made = 0

    async def close(self) -> None:
        await self._redis.aclose()

    async def run(self, seconds: float, at_a_time: int) -> Timing:
        """Keep `at_a_time` requests in flight for so long. Raises BackendError if one gets no answer."""
        cursor = await last_id(self._redis, self._replies)
        under_way: dict[bytes, float] = {}
        latencies: list[float] = []
        waited, began = 0, time.perf_counter()
        await self._send(at_a_time, under_way)
        while under_way:
            answer = await self._redis.xread({self._replies: cursor}, count=COUNT, block=BLOCK_MS)
            end_if_cancelled()
            now = time.perf_counter()
            waited = 0 if answer else waited + 1
            if waited == PATIENCE:
                raise BackendError(f"{len(under_way)} requests got no answer through {self._replies}")
            ended = 0
            for entry_id, fields in (row for _, rows in answer or () for row in rows):
                cursor = entry_id
                check(fields)
                sent = under_way.pop(fields[b"id"], None)
                if sent is not None:
                    latencies.append(now - sent)
                    ended += 1
            if now - began < seconds:
                await self._send(ended, under_way)
        return Timing(latencies, time.perf_counter() - began)

    async def _send(self, count: int, under_way: dict[bytes, float]) -> None:
        if not count:
            return
        pipe = self._redis.pipeline(transaction=False)
        for _ in range(count):
            self._made += 1
            name = f"bench-{id(self):x}-{self._made}"
            pipe.xadd(self._requests, {"id": name, **self._content})
            under_way[name.encode()] = time.perf_counter()
        await pipe.execute()


def check(fields: Mapping[bytes, bytes]) -> None:
    """Raise BackendError unless the entry is a `done` reply, or one of the relay, without a kind."""
    kind = fields.get(b"kind", b"done")
    if kind != b"done":
        words = (fields.get(b"code", b"") + b" " + fields.get(b"message", b"")).decode().strip()
        raise BackendError(f"a request of the bench ended as {kind.decode()}: {words}")


async def last_id(redis: Any, stream: bytes | str) -> bytes:
    """Return the id of the newest entry of a stream."""
    newest = await redis.xrevrange(stream, count=1)
    return newest[0][0] if newest else b"0-0"
