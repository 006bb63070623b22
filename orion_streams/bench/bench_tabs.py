"""What open pages cost the gateway: so many tabs, each with its stream of views."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import psutil

from orion_streams.bench.bench_rows import Row, tidy
from orion_streams.bench.footprint import cpu_s
from orion_streams.errors import BackendError

TABS = 50
FIRST_S = 10.0
PATH = "/orion/v1/live"


async def row(url: str, pid: int, without_percent: float, settle_s: float, seconds: float) -> Row:
    """Measure the processor time of TABS open pages, as a share of one core, beyond that without any.
    Raise BackendError if one of them is told nothing."""
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(url, timeout=timeout, connector=connector) as http,
        AsyncExitStack() as held,
    ):
        try:
            tabs = [await held.enter_async_context(http.get(PATH)) for _ in range(TABS)]
            async with asyncio.timeout(FIRST_S):
                await asyncio.gather(*(first_of(each) for each in tabs))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendError(f"{url}{PATH} tells nothing: {error!r}") from error
        reading = [asyncio.create_task(drained(each)) for each in tabs]
        try:
            await asyncio.sleep(settle_s)
            process, began = psutil.Process(pid), asyncio.get_running_loop().time()
            before_s = cpu_s(process)
            await asyncio.sleep(seconds)
            used_s = cpu_s(process) - before_s
            passed_s = asyncio.get_running_loop().time() - began
        finally:
            for each in reading:
                each.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
    more = max(used_s / passed_s * 100 - without_percent, 0.0)
    return Row(f"gateway_{TABS}_tabs_cpu_percent", tidy(more), "% of a core")


async def first_of(tab: aiohttp.ClientResponse) -> None:
    """Read a stream up to its first view. Raise BackendError if it ends before."""
    async for line in tab.content:
        if line.startswith(b"data: "):
            return
    raise BackendError(f"{tab.url} ended without a view")


async def drained(tab: aiohttp.ClientResponse) -> None:
    """Read a stream as it comes."""
    async for _ in tab.content.iter_any():
        pass
