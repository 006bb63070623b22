"""`orion bench gateway`: what HTTP costs on top of the streams.

The same chat goes through the gateway, through the streams alone, straight to the backend, and to a server
that answers a constant; they take turns in one run, so that a disturbance meets all alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from msgspec import Struct

from orion_streams.bench import bench_tabs, footprint
from orion_streams.bench.bench_chat import TEXT, Chat, HttpChat, StreamsChat, in_turn, timed
from orion_streams.bench.bench_grid import CLIENT, HTTP_MODEL, HTTP_NODE, SLOTS, STREAMS, BenchGrid
from orion_streams.bench.bench_load import Timing
from orion_streams.bench.bench_output import say
from orion_streams.bench.bench_rows import Row, compared, tidy
from orion_streams.bench.instant_ollama import CONSTANT_PATH
from orion_streams.runtime.connection import end_if_cancelled
from orion_streams.runtime.supervisor import Child

GATEWAY, ALONE, STRAIGHT, CONSTANT = "gateway", "client", "straight", "constant"
"""The ways: through the gateway; the Python client and the streams alone; to the backend; to a constant."""
BESIDE = (GATEWAY, ALONE, STRAIGHT, CONSTANT)
"""In this order each has its turn: those that are compared beside each other."""
TOKENS, FIRST_TOKENS = 50, 4
"""Of the streams at once; of those whose first token is timed."""
PIECE_S = 10.0
FLOORS = (
    "floor of gateway_p50_ms: the streams alone + 2 x an aiohttp server that answers a constant; "
    "of gateway_rps_16: the streams alone"
)


class GatewayPlan(Struct, frozen=True):
    """How much is measured: rounds, in each of which every way has `alone` requests one by one, a turn of
    `turn_s` with SLOTS at a time, and `firsts` streams; requests before the memory is looked at; then an
    idle gateway for `idle_s`."""

    rounds: int = 40
    alone: int = 30
    turn_s: float = 0.25
    firsts: int = 15
    requests: int = 100_000
    settle_s: float = 3.0
    idle_s: float = 30.0


QUICK = GatewayPlan(rounds=8, requests=2_000, settle_s=1.0, idle_s=5.0)


class Turn(Struct, frozen=True):
    """One way in one round: latencies one by one, SLOTS at a time, and of first tokens, in seconds."""

    alone_s: list[float]
    busy: Timing
    firsts_s: list[float]

    @property
    def p50_ms(self) -> float:
        return median(self.alone_s) * 1000


Round = dict[str, Turn]


async def measure(folder: Path, plan: GatewayPlan) -> list[Row]:
    """Measure all rows. Every process that was started has ended on return. Raise BackendError."""
    remark = lambda name, what: say(f"{name} {what}")  # noqa: E731
    async with BenchGrid(folder, remark, instant=True) as grid, AsyncExitStack() as held:
        say("starting server, router, agent and gateway")
        await grid.start_role("router")
        await grid.start_agent(HTTP_NODE, HTTP_MODEL)
        gateway = await grid.start_gateway()
        ways = ways_of(grid, gateway)
        for chat in ways.values():
            held.push_async_callback(chat.close)
        rounds = await take_turns(ways, plan)
        say(f"{STREAMS} streams at once")
        await many_streams(ways[GATEWAY])
        await many_requests(ways[GATEWAY], plan.requests)
        say(f"an idle gateway, for {plan.settle_s + plan.idle_s:g} s")
        assert gateway.pid is not None  # noqa: S101 - it answered
        idle = await footprint.idle(GATEWAY, gateway.pid, plan.settle_s, plan.idle_s)
        say(f"{bench_tabs.TABS} open pages, for {plan.settle_s + plan.idle_s:g} s")
        url, pid = str(gateway.announced["gateway_url"]), gateway.pid
        idle.append(await bench_tabs.row(url, pid, idle[-1].value, plan.settle_s, plan.idle_s))
        grid.check_alive()
    whole = Row("gateway_streams_whole", STREAMS, "streams")
    return [*rows_of(rounds), whole, *idle, Row("gateway_requests", plan.requests, "before its memory")]


def ways_of(grid: BenchGrid, gateway: Child) -> Mapping[str, Chat]:
    """Return who asks, by the way it takes. One by one they ask in this order, to and fro: the constant
    always after a slow one, as the others find processes that have just slept."""
    return {
        GATEWAY: HttpChat(str(gateway.announced["gateway_url"]), HTTP_MODEL),
        CONSTANT: HttpChat(grid.ollama_url, HTTP_MODEL, CONSTANT_PATH),
        ALONE: StreamsChat(grid.url, CLIENT, grid.config.prefix, HTTP_MODEL),
        STRAIGHT: HttpChat(grid.ollama_url, HTTP_MODEL),
    }


async def take_turns(ways: Mapping[str, Chat], plan: GatewayPlan) -> list[Round]:
    """Measure the ways in turns, every other round from the last to the first; discard a first round."""
    rounds: list[Round] = []
    for n in range(plan.rounds + 1):
        if n % 10 == 0:
            say(f"gateway, round {n} of {plan.rounds}")
        alone = await in_turn(ways, plan.alone, lambda chat: chat.ask())
        names = BESIDE[:: -1 if n % 2 else 1]
        busy = {name: await timed(ways[name], plan.turn_s, SLOTS) for name in names}
        streaming = {name: ways[name] for name in (GATEWAY, ALONE)}
        firsts = await in_turn(streaming, plan.firsts, lambda chat: chat.stream(TEXT, FIRST_TOKENS))
        end_if_cancelled()
        if n:
            rounds.append({name: Turn(alone[name], busy[name], firsts.get(name, [])) for name in names})
    return rounds


async def many_streams(chat: Chat) -> None:
    """Open STREAMS streams at once, each told apart. Raise BackendError unless all come whole."""
    await asyncio.gather(*(chat.stream(f"stream-{number}", TOKENS) for number in range(STREAMS)))


async def many_requests(chat: Chat, count: int) -> None:
    """Ask so many times, and tell how far it is."""
    done = 0
    while done < count:
        say(f"{done:,} of {count:,} requests")
        done += len((await timed(chat, PIECE_S, SLOTS, count - done)).latencies_s)
        end_if_cancelled()


def rows_of(rounds: list[Round]) -> list[Row]:
    """Make the rows of the rounds: first those with a goal, then each way by itself."""
    p50, rps, added_ms = [], [], []
    for turns in rounds:
        gateway, alone = turns[GATEWAY], turns[ALONE]
        p50.append((gateway.p50_ms, alone.p50_ms + 2 * turns[CONSTANT].p50_ms))
        rps.append((gateway.busy.rps, alone.busy.rps))
        added_ms.append((median(gateway.firsts_s) - median(alone.firsts_s)) * 1000)
    return [
        compared("gateway_p50_ms", "ms", p50),
        compared(f"gateway_rps_{SLOTS}", "requests/s", rps),
        Row("gateway_first_token_added_ms", tidy(median(added_ms)), "ms"),
        *(row for name in BESIDE for row in rows_of_way(name, rounds)),
    ]


def rows_of_way(name: str, rounds: list[Round]) -> list[Row]:
    """Make the rows of one way; two of the gateway's stand among those with a goal."""
    turns = [each[name] for each in rounds]
    latencies = Timing([s for turn in turns for s in turn.alone_s], seconds=0)
    rows = [Row(f"{name}_p99_ms", tidy(latencies.p99_ms), "ms")]
    if name != GATEWAY:
        rows.insert(0, Row(f"{name}_p50_ms", tidy(median(turn.p50_ms for turn in turns)), "ms"))
        rps = median(turn.busy.rps for turn in turns)
        rows.append(Row(f"{name}_rps_{SLOTS}", tidy(rps), "requests/s"))
    return rows
