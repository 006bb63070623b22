"""`orion demo`: a grid in under a minute, with real processes around simulated Ollamas.

Its claims are counted by an observer of the raw streams and recomputed from the log by a fresh process. Any
broken promise makes it exit 1.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import msgspec

from orion_streams.demo.cast import cast_of, settings
from orion_streams.demo.demo_story import Story
from orion_streams.demo.demo_summary import Summary, show, summarize
from orion_streams.demo.observer import Observer
from orion_streams.demo.screen import Screen
from orion_streams.demo.simulated_grid import SimulatedGrid
from orion_streams.environment import child_environment
from orion_streams.errors import EXIT_FAILED, EXIT_OK, BackendError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.replay.verify import Report
from orion_streams.runtime.connection import connect

SIGTERM = "SIGTERM"
EXIT_TERMINATED = 128 + signal.SIGTERM


async def run(real: bool = False, json: bool = False) -> int:
    """Play the demo and return the exit code. `json`: print the summary as one line of data, everything
    else to stderr. SIGTERM ends it as cleanly as Ctrl-C."""
    playing = asyncio.current_task()
    if playing is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel, SIGTERM)
    began_s = time.monotonic()
    grid = SimulatedGrid(cast_of("llama" if real else "synthetic"), settings=settings(real))
    screen = Screen(stderr=json, engine="llama" if real else "synthetic")
    try:
        with screen:
            screen.say("starting an embedded server, a router, three simulated nodes and their agents …")
            async with grid:
                summary = await play(grid, screen, began_s)
    except asyncio.CancelledError as cancelled:
        if SIGTERM not in cancelled.args:
            raise  # Ctrl-C
        return EXIT_TERMINATED
    if json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    else:
        show(summary)
    return EXIT_FAILED if summary.broken_promises else EXIT_OK


async def play(grid: SimulatedGrid, screen: Screen, began_s: float) -> Summary:
    """Play the story and summarize it."""
    redis = connect(grid.redis_url)
    config = grid.config
    store = RedisLog(redis, config.prefix)
    observer = Observer(connect(grid.redis_url), config.prefix, list(config.clients), sorted(config.nodes))
    observer.start()
    story = Story(grid, screen)
    following = asyncio.create_task(screen.follow(store, observer, story.total))
    try:
        await story.tell()
    finally:
        following.cancel()
        await asyncio.wait([following])
    screen.say("every decision is recomputed from the log, by a process of its own …")
    tally = await observer.stop()
    report = await recompute(grid)
    summary = summarize(screen.history, story, tally, report, time.monotonic() - began_s)
    await redis.aclose()
    return summary


async def recompute(grid: SimulatedGrid) -> Report:
    """Verify the log in a fresh process."""
    command = ("-m", "orion_streams.cli", "replay", "--json", "--redis", grid.redis_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(*command, "--config", str(grid.config_path)),
        env=child_environment({"ORION_REDIS_PASSWORD": ""}),  # the grid's own server has none
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    try:
        return msgspec.json.decode(out, type=Report)
    except msgspec.DecodeError as error:
        raise BackendError(f"the recomputation ended with {process.returncode}") from error
