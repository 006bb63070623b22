"""The floor of the streams path: a process that copies entries from stream to stream.

A hop reads in batches and writes in pipelines, as router and agents do. `python -m
orion_streams.bench.relay URL FROM TO [FROM TO]` runs hops between the named streams in one process until
SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from orion_streams.bench.bench_load import last_id
from orion_streams.runtime.connection import connect

BATCH, BLOCK_MS = 64, 1_000


async def hand_on(redis: Any, ways: Mapping[bytes, str], cursors: dict[bytes, bytes]) -> int:
    """Read once from all streams in `ways`, blocking, and write in one pipeline; count the entries."""
    answer = await redis.xread(cursors, count=BATCH, block=BLOCK_MS)
    pipe = redis.pipeline(transaction=False)
    for stream, entries in answer or ():
        for entry_id, fields in entries:
            pipe.xadd(ways[stream], fields)
            cursors[stream] = entry_id
    handed_on = len(pipe)
    if handed_on:
        await pipe.execute()
    return handed_on


async def relay(url: str, ways: Mapping[bytes, str]) -> None:
    """Copy new entries until cancelled. Write one line of JSON when ready."""
    redis: Any = connect(url)
    try:
        cursors = {stream: await last_id(redis, stream) for stream in ways}
        sys.stdout.write(msgspec.json.encode({"ready": True}).decode() + "\n")
        sys.stdout.flush()
        while True:
            await hand_on(redis, ways, cursors)
    finally:
        await redis.aclose()


async def until_told(url: str, ways: Mapping[bytes, str]) -> None:
    """Relay until SIGTERM or SIGINT."""
    task = asyncio.create_task(relay(url, ways))
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def pairs(streams: list[str]) -> dict[bytes, str]:
    """Map each source stream to its target, from a list of alternating names."""
    return {source.encode(): target for source, target in zip(streams[::2], streams[1::2], strict=True)}


if __name__ == "__main__":
    asyncio.run(until_told(sys.argv[1], pairs(sys.argv[2:])))
