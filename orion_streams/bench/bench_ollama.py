"""The floor of the HTTP path: the same request to the node, without the grid."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import httpx
import msgspec

from orion_streams.bench.bench_load import Timing
from orion_streams.errors import BackendError


class HttpLoad:
    """An httpx client of one node, set up as in the agent."""

    def __init__(self, url: str, content: Mapping[str, object]) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=10, trust_env=False)
        self._body = msgspec.json.encode({**content, "stream": True})

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, seconds: float, at_a_time: int) -> Timing:
        """Keep `at_a_time` requests in flight for so many seconds. Raises BackendError."""
        latencies: list[float] = []
        began = time.perf_counter()

        async def one_after_the_other() -> None:
            while (sent := time.perf_counter()) - began < seconds:
                await self._ask()
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(one_after_the_other() for _ in range(at_a_time)))
        return Timing(latencies, time.perf_counter() - began)

    async def _ask(self) -> None:
        last = ""
        try:
            async with self._http.stream("POST", "/api/generate", content=self._body) as answer:
                async for line in answer.aiter_lines():
                    last = line
        except httpx.HTTPError as error:
            raise BackendError(f"the simulated node does not answer: {error!r}") from error
        if '"done":true' not in last:
            raise BackendError(f"the simulated node's answer did not end: {last[:200]}")
