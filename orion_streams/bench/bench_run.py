"""`orion bench`: the overhead of the grid on this machine, against a floor measured in the same run.

Only ratios are comparable: a machine's speed drifts, so floor and grid take turns and each round has its
own ratio.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.bench import bench_core, bench_gateway, bench_photos, footprint
from orion_streams.bench.bench_grid import (
    CLIENT,
    ECHO_MODEL,
    ECHO_NODE,
    HTTP_MODEL,
    HTTP_NODE,
    RELAY_STREAMS,
    SLOTS,
    BenchGrid,
)
from orion_streams.bench.bench_load import StreamsLoad
from orion_streams.bench.bench_ollama import HttpLoad
from orion_streams.bench.bench_output import say, show
from orion_streams.bench.bench_rows import Row, compared
from orion_streams.errors import EXIT_OK
from orion_streams.runtime.connection import end_if_cancelled

OPTIONS = {"num_predict": 1}
INTERRUPTED = 128
FLOORS = (
    "floor of streams: a bare relay of the same four hops between processes; "
    "of http: httpx straight to the simulated node; of photos: 1 MB in one entry instead of 4 MB in parts"
)


class Plan(Struct, frozen=True):
    """How much is measured: rounds of four turns, each of `turn_s`, with photos three of `photo_turn_s`;
    then an idle agent for `idle_s`."""

    streams_rounds: int = 15
    http_rounds: int = 12
    photo_rounds: int = 7
    photo_turn_s: float = 1.0
    turn_s: float = 0.2
    settle_s: float = 1.0
    idle_s: float = 8.0


QUICK = Plan(streams_rounds=3, http_rounds=3, idle_s=2.0)


def run(*, gateway: bool, quick: bool, json: bool) -> int:
    """Measure the grid, or its gateway, and print the results; a missed goal does not fail the command.
    Raises BackendError."""
    folder = Path(tempfile.mkdtemp(prefix="orion-bench-"))
    try:
        if gateway:
            plan = bench_gateway.QUICK if quick else bench_gateway.GatewayPlan()
            rows = asyncio.run(until_told(bench_gateway.measure(folder, plan)))
        else:
            rows = asyncio.run(until_told(measure(folder, QUICK if quick else Plan())))
    except asyncio.CancelledError:
        return INTERRUPTED + signal.SIGTERM
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
    else:
        show(rows, bench_gateway.FLOORS if gateway else FLOORS)
    return EXIT_OK


async def until_told(measuring: Coroutine[Any, Any, list[Row]]) -> list[Row]:
    """Measure; SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await measuring


async def measure(folder: Path, plan: Plan) -> list[Row]:
    """Measure all rows. Every process that was started has ended on return."""
    say("the pure core")
    rows = bench_core.rows()
    async with BenchGrid(folder, lambda name, what: say(f"{name} {what}")) as grid:
        say("starting server, relay, router and agent")
        await grid.start_relay()
        await grid.start_role("router")
        await grid.start_agent(ECHO_NODE, ECHO_MODEL)
        streams = await streams_path(grid, plan)
        agent = await grid.start_agent(HTTP_NODE, HTTP_MODEL)
        over_http = await http_path(grid, plan)
        held = await footprint.script(grid.url)
        say("photos")
        photos = await bench_photos.rows(grid, plan.photo_rounds, plan.photo_turn_s)
        assert agent.pid is not None  # noqa: S101 - it answered
        say("an idle agent")
        idle = await footprint.idle("agent", agent.pid, plan.settle_s, plan.idle_s)
        grid.check_alive()
    return [*streams, *over_http, held, *photos, *idle, *rows]


async def streams_path(grid: BenchGrid, plan: Plan) -> list[Row]:
    """Measure the grid with a backend that answers at once, against the bare relay."""
    content = {"model": ECHO_MODEL, "prompt": "hello", "stream": "0"}
    relay = StreamsLoad(grid.url, RELAY_STREAMS[0], RELAY_STREAMS[-1], content)
    product = through_grid(grid, content)
    try:
        return await take_turns("streams", product, relay, plan.streams_rounds, plan.turn_s)
    finally:
        await relay.close()
        await product.close()


async def http_path(grid: BenchGrid, plan: Plan) -> list[Row]:
    """Measure the grid with a node that answers over HTTP at once, against requests without the grid."""
    content = {"model": HTTP_MODEL, "prompt": "hello"}
    direct = HttpLoad(grid.ollama_url, {**content, "options": OPTIONS})
    options = msgspec.json.encode(OPTIONS).decode()
    product = through_grid(grid, {**content, "options": options, "stream": "0"})
    try:
        return await take_turns("http", product, direct, plan.http_rounds, plan.turn_s)
    finally:
        await direct.close()
        await product.close()


def through_grid(grid: BenchGrid, content: Mapping[str, str]) -> StreamsLoad:
    """Make the load of a client of the grid."""
    key = grid.config.key
    return StreamsLoad(grid.url, key("requests", CLIENT), key("replies", CLIENT), content)


async def take_turns(
    name: str, product: StreamsLoad, floor: StreamsLoad | HttpLoad, rounds: int, turn_s: float
) -> list[Row]:
    """Measure floor and product in turns, with one request and with SLOTS; discard a first round."""
    p50: list[tuple[float, float]] = []
    rps: list[tuple[float, float]] = []
    for n in range(rounds + 1):
        if n % 5 == 0:
            say(f"{name} path, round {n} of {rounds}")
        quiet = [(await end.run(turn_s, 1)).p50_ms for end in (floor, product)]
        busy = [(await end.run(turn_s, SLOTS)).rps for end in (floor, product)]
        end_if_cancelled()
        if n:
            p50.append((quiet[1], quiet[0]))
            rps.append((busy[1], busy[0]))
    return [
        compared(f"{name}_p50_ms", "ms", p50),
        compared(f"{name}_rps_{SLOTS}", "requests/s", rps),
    ]
