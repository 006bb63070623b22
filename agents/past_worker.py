"""The worker process for the past: folds a log to any position, beside the gateway and never in it.

`python -m orion_streams.agents.past_worker` answers questions from its standard input, one at a time, under
a limit of memory and at low priority, until that ends.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys

import msgspec
from redis.exceptions import RedisError

from orion_streams.agents.past_log import PastLog, Refused
from orion_streams.agents.past_messages import Question, Reply, Setup, frame, read_frame
from orion_streams.errors import LogError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.runtime.connection import connect, in_short

NICE = 10
MEMORY_BYTES = 500_000_000


async def answer(past: PastLog, question: Question) -> Reply:
    """Work out one question."""
    try:
        return Reply(200, await past.answer(question))
    except Refused as refused:
        return Reply(refused.status, str(refused).encode())
    except LogError as error:
        return Reply(404, str(error).encode())
    except (RedisError, OSError) as error:
        return Reply(503, f"the grid's server is away: {in_short(error)}".encode())


async def serve() -> None:
    """Answer until the standard input ends."""
    loop, pipe = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(pipe), sys.stdin.buffer)
    setup = msgspec.msgpack.decode(await read_frame(pipe), type=Setup)
    redis = connect(setup.url)
    past = PastLog(RedisLog(redis, setup.prefix))
    try:
        while True:
            try:
                raw = await read_frame(pipe)
            except asyncio.IncompleteReadError:
                return
            reply = await answer(past, msgspec.msgpack.decode(raw, type=Question))
            sys.stdout.buffer.write(frame(reply))
            sys.stdout.buffer.flush()
    finally:
        await redis.aclose()


def main() -> None:
    """Bound this process, and serve."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
