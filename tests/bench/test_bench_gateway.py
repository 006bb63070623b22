"""The parts of `orion bench gateway` work; how fast anything is, no test asks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from aiohttp import web
from typer.testing import CliRunner

from orion_streams.bench import bench_run
from orion_streams.bench.bench_chat import HttpChat, check_whole, in_turn, timed
from orion_streams.bench.bench_gateway import (
    ALONE,
    CONSTANT,
    GATEWAY,
    STRAIGHT,
    GatewayPlan,
    Turn,
    measure,
    rows_of,
)
from orion_streams.bench.bench_load import Timing
from orion_streams.bench.bench_rows import GATEWAY_GOALS, Row
from orion_streams.bench.instant_ollama import CONSTANT_PATH, application, tokens
from orion_streams.cli.app import app
from orion_streams.errors import BackendError

MODEL = "gemma3:270m"
FIGURES = ("p50_ms", "p99_ms", "rps_16")
PROMISED = {
    f"{way}_{what}" for way in (ALONE, STRAIGHT, CONSTANT) for what in ("p50_ms", "p99_ms", "rps_16")
}
TINY = GatewayPlan(rounds=1, alone=2, turn_s=0.05, firsts=1, requests=20, settle_s=0.0, idle_s=0.1)


@asynccontextmanager
async def served(backend: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port; yield its URL."""
    runner = web.AppRunner(backend)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_a_chat_over_http_is_answered_and_streamed_whole() -> None:
    """The backend that answers at once says what was asked for, and every one is timed."""
    async with served(application(MODEL)) as url:
        for path in ("/api/chat", CONSTANT_PATH):
            chat = HttpChat(url, MODEL, path)
            try:
                assert await chat.ask() > 0
                timing = await timed(chat, 60, at_a_time=3, most=7)
                assert len(timing.latencies_s) == 7
            finally:
                await chat.close()
        chat = HttpChat(url, MODEL)
        try:
            assert await chat.stream("one", 5) > 0
        finally:
            await chat.close()


async def test_a_backend_that_refuses_ends_the_run() -> None:
    """A refusal is not counted as a fast answer, and no stream as a whole one."""
    async with served(web.Application()) as url:
        chat = HttpChat(url, MODEL)
        try:
            with pytest.raises(BackendError, match="404"):
                await chat.ask()
            with pytest.raises(BackendError, match="broke a stream off"):
                await chat.stream("one", 5)
        finally:
            await chat.close()


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ("one.0 one.2 ", True),
        ("one.0 one.2 one.1 ", True),
        ("one.0 one.1 two.2 ", True),
        ("one.0 one.1 one.2 one.2 ", True),
        ("", True),
        ("one.0 one.1 one.2 ", False),
    ],
)
def test_a_stream_that_is_not_whole_is_found(said: str, ended: bool) -> None:
    """A token that is missing, late, another stream's or told twice, and an end that did not come."""
    check_whole(tokens("one", 3), "one", 3, ended=True)
    with pytest.raises(BackendError, match="one: expected 3 tokens in order"):
        check_whole(said, "one", 3, ended)


class Spoken:
    """A way that notes when it is asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    async def ask(self) -> float:
        self._log.append(self._name)
        return float(len(self._log))

    async def stream(self, text: str, count: int) -> float:
        return await self.ask()

    async def close(self) -> None:
        self._log.append("closed")


async def test_ways_take_turns_one_request_at_a_time() -> None:
    """No way is asked twice before all others were asked, and none is always the first."""
    log: list[str] = []
    ways = {name: Spoken(name, log) for name in "abc"}
    found = await in_turn(ways, 2, lambda chat: chat.ask())
    assert log == [*"abc", *"cba"]
    assert found == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def turn(ms: float, rps: float, first_ms: float = 0) -> Turn:
    """Make a turn of one request."""
    return Turn([ms / 1000], Timing([0.0] * round(rps), 1.0), [first_ms / 1000])


@pytest.mark.parametrize(
    ("gateway", "verdict"),
    [(turn(6, 80, 13), "pass"), (turn(6.1, 79, 13.1), "over")],
    ids=["met", "missed"],
)
def test_the_goals_are_those_of_the_streams_and_of_the_constant(gateway: Turn, verdict: str) -> None:
    """The gateway may take two constants more than the streams alone, and a fifth less of their rate."""
    others = {ALONE: turn(4, 100, 10), STRAIGHT: turn(9, 9), CONSTANT: turn(1, 900)}
    rows = {row.name: row for row in rows_of([{GATEWAY: gateway, **others}])}
    assert rows["gateway_p50_ms"].floor == 6
    assert rows["gateway_rps_16"].floor == 100
    judged = {name: row.verdict for name, row in rows.items() if row.verdict}
    assert judged == dict.fromkeys(
        ("gateway_p50_ms", "gateway_rps_16", "gateway_first_token_added_ms"), verdict
    )
    assert rows["constant_p99_ms"] == Row("constant_p99_ms", 1.0, "ms")


@pytest.mark.parametrize(
    ("arguments", "is_gateway"), [(["gateway", "--quick"], True), (["--quick"], False)]
)
def test_the_command_measures_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], is_gateway: bool
) -> None:
    """`bench gateway` is the gateway, `bench` the grid."""
    asked: list[dict[str, bool]] = []

    def run(**options: bool) -> int:
        asked.append(options)
        return 0

    monkeypatch.setattr(bench_run, "run", run)
    result = CliRunner().invoke(app, ["bench", *arguments, "--json"])
    assert (result.exit_code, asked) == (0, [{"gateway": is_gateway, "quick": True, "json": True}])


@pytest.mark.everything
async def test_a_run_through_the_gateway_gives_all_rows_and_leaves_no_process(tmp_path: Path) -> None:
    """The whole bench in small: each figure once, 200 whole streams, and everything started has ended."""
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    rows = await measure(tmp_path, TINY)
    after = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    assert after <= before
    names = [row.name for row in msgspec.json.decode(msgspec.json.encode(rows), type=list[Row])]
    assert len(names) == len(set(names))
    assert set(names) >= PROMISED | set(GATEWAY_GOALS)
    assert Row("gateway_streams_whole", 200.0, "streams") in rows
    assert all(row.value >= 0 and row.unit for row in rows if row.name != "gateway_first_token_added_ms")
