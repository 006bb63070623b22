"""The footprint of an idle process, and how long the router's script blocks the server."""

from __future__ import annotations

import asyncio

import psutil

from orion_streams.bench.bench_rows import Row, tidy
from orion_streams.errors import BackendError
from orion_streams.runtime.connection import connect

MB = 1024 * 1024


async def idle(who: str, pid: int, settle_s: float, seconds: float) -> list[Row]:
    """Measure resident memory, and processor time as a share of one core, over so many idle seconds.
    `who`: what the process is called in the rows."""
    process = psutil.Process(pid)
    await asyncio.sleep(settle_s)
    began, before_s = asyncio.get_running_loop().time(), cpu_s(process)
    await asyncio.sleep(seconds)
    used_s = cpu_s(process) - before_s
    passed_s = asyncio.get_running_loop().time() - began
    return [
        Row(f"{who}_rss_mb", tidy(process.memory_info().rss / MB), "MB"),
        Row(f"{who}_idle_cpu_percent", tidy(used_s / passed_s * 100), "% of a core"),
    ]


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time used so far, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def script(url: str) -> Row:
    """Return the 99th percentile of all script calls since the server's start, as the server measured it;
    it serves nobody else meanwhile. Raises BackendError if no script was called."""
    redis = connect(url)
    try:
        row = (await redis.info("latencystats")).get("latency_percentiles_usec_evalsha")
    finally:
        await redis.aclose()
    if not isinstance(row, dict):
        raise BackendError("the server has no latency of EVALSHA: no commit was measured")
    return Row("script_p99_ms", tidy(float(row["p99"]) / 1000), "ms")
