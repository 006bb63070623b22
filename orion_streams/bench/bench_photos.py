"""How long requests with 4 MB of photos, in parts, hold the server; beside it, requests whose photo stands
in one entry of 1 MB.

By two clocks: that of others, who PING meanwhile (the slowest hundredth, less what that takes while nothing
is asked), and the server's own, the longest command in its slow log. The longest PING of all would tell
more of what else the machine does; so does all but the least disturbed round.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.bench.bench_grid import CLIENT, ECHO_MODEL, BenchGrid
from orion_streams.bench.bench_load import StreamsLoad
from orion_streams.bench.bench_rows import Row, tidy
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError
from orion_streams.runtime.connection import connect

PHOTOS_BYTES, ENTRY_BYTES = 4_000_000, 1_000_000
AT_A_TIME = 2
SLOW_US, SLOW_LOGGED = 100, 10_000
LEAST_MS = 0.1
"""Less is not told apart from the machine's noise."""

Load = Callable[[float], Awaitable[object]]


class Hold(Struct, frozen=True):
    """The 99th percentile of PINGs and the longest command of a turn, in ms."""

    ping_ms: float
    command_ms: float


async def rows(grid: BenchGrid, rounds: int, turn_s: float) -> list[Row]:
    """Measure in turns: idle, photos in one entry, photos in parts. Discard a first round."""
    photo, key = "a" * PHOTOS_BYTES, grid.config.key
    content = {"model": ECHO_MODEL, "prompt": "what is this?", "stream": "0"}
    content["images"] = msgspec.json.encode([photo[:ENTRY_BYTES]]).decode()
    entries = StreamsLoad(grid.url, key("requests", CLIENT), key("replies", CLIENT), content)
    turns: list[tuple[Hold, Hold, Hold]] = []
    async with AsyncClient(grid.url, CLIENT, prefix=grid.config.prefix) as client:

        async def in_parts(seconds: float) -> None:
            until_s = asyncio.get_running_loop().time() + seconds

            async def ask() -> None:
                while asyncio.get_running_loop().time() < until_s:
                    await client.generate(ECHO_MODEL, "what is this?", images=[photo])

            await asyncio.gather(*(ask() for _ in range(AT_A_TIME)))

        async def in_entries(seconds: float) -> None:
            await entries.run(seconds, AT_A_TIME)

        try:
            for _ in range(rounds + 1):
                idle = await held(grid.url, asyncio.sleep, turn_s)
                turns.append(
                    (
                        idle,
                        await held(grid.url, in_entries, turn_s),
                        await held(grid.url, in_parts, turn_s),
                    )
                )
        finally:
            await entries.close()
    turns = turns[1:]
    quiet_ms = min(idle.ping_ms for idle, _, _ in turns)
    pings = [(each.ping_ms - quiet_ms, floor.ping_ms - quiet_ms) for _, floor, each in turns]
    commands = [(each.command_ms, floor.command_ms) for _, floor, each in turns]
    return [least("photos_ping_p99_ms", pings), least("photos_command_ms", commands)]


def least(name: str, rounds: Sequence[tuple[float, float]]) -> Row:
    """Make a row of the least disturbed round of each: other processes only make it longer."""
    value, floor = (max(min(each), LEAST_MS) for each in zip(*rounds, strict=True))
    return Row(name, tidy(value), "ms", tidy(floor), tidy(value / floor))


async def held(url: str, load: Load, seconds: float) -> Hold:
    """Time PINGs, from another process, while a load runs for so long. Raises BackendError."""
    redis: Any = connect(url)
    try:
        await redis.config_set("slowlog-log-slower-than", SLOW_US)
        await redis.config_set("slowlog-max-len", SLOW_LOGGED)
        await redis.slowlog_reset()
        (ping_ms, _) = await asyncio.gather(slow_ping_ms(url, seconds), load(seconds))
        slow = await redis.slowlog_get(SLOW_LOGGED)
    finally:
        await redis.aclose()
    return Hold(ping_ms, max((row["duration"] for row in slow), default=0) / 1000)


async def slow_ping_ms(url: str, seconds: float) -> float:
    """Return the 99th percentile of PINGs in so many seconds. Raises BackendError."""
    words = (sys.executable, "-m", "orion_streams.bench.pinger", url, str(seconds))
    pinger = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await pinger.communicate()
    finally:
        if pinger.returncode is None:
            pinger.kill()
            await pinger.wait()
    if pinger.returncode:
        raise BackendError("the server did not answer every PING")
    return float(msgspec.json.decode(out, type=dict[str, float])["p99_ms"])
