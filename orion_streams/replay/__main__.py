"""`python -m orion_streams.replay --redis URL`: verify a live log in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from orion_streams.connection import connect
from orion_streams.errors import EXIT_DIVERGED, EXIT_OK
from orion_streams.log import RedisLog
from orion_streams.replay.verify import Report, verify


async def run(url: str, prefix: str) -> Report:
    """Verify the log of one grid."""
    redis = connect(url)
    try:
        return await verify(RedisLog(redis, prefix))
    finally:
        await redis.aclose()


def main() -> int:
    """The exit code: 0, or 4 when a recorded decision is not the recomputed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", required=True, metavar="URL")
    parser.add_argument("--prefix", default="orion:")
    chosen = parser.parse_args()
    report = asyncio.run(run(chosen.redis, chosen.prefix))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return EXIT_DIVERGED if report.diverged else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
