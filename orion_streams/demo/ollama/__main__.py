"""Run one simulated node as a process.

Prints one line of JSON on stdout when it answers, and runs until SIGTERM or SIGINT, or until the
process that started it is gone. Exit codes: 0 stopped, 1 cannot run, 2 usage, 78 bad spec.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from orion_streams.demo.ollama import NodeSpec, RealEngineMissingError, serve

_PARENT_POLL_S = 0.25


async def _run(spec: NodeSpec) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    watch = asyncio.create_task(_until_orphaned(os.getppid(), stop))
    async with serve(spec) as node:
        ready = {"url": node.url, "engine": node.engine, "simulated": True}
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await stop.wait()
    watch.cancel()


async def _until_orphaned(parent: int, stop: asyncio.Event) -> None:
    """Poll for the parent's end: the kernel's notice would come when only the starting thread ends."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells of a parent's end
        await asyncio.sleep(_PARENT_POLL_S)
    stop.set()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orion_streams.demo.ollama")
    parser.add_argument("--spec", type=Path, required=True, help="a NodeSpec as JSON")
    path: Path = parser.parse_args().spec
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=NodeSpec)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 78
    try:
        asyncio.run(_run(spec))
    except (RealEngineMissingError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
