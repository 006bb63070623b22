"""Redis is away for long: router and agents hold little, say it once, and go on by themselves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orion_streams.agents.results import ResultWriter
from orion_streams.runtime import backoff
from orion_streams.runtime.backoff import LOG_AGAIN_S, OutageLog, reconnect_backoff
from orion_streams.runtime.connection import connect
from orion_streams.runtime.faust_redis import App
from tests.agents.agent_bench import Own, limited, routing, running
from tests.agents.test_router_app import answered, ask
from tests.helpers import eventually

LONG = 60
"""Tries that failed: minutes with the real pauses, seconds with those of the test."""
A_FEW = 10
"""Tasks that come and go with single calls; a leak would be one for each of hundreds of tries."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Short pauses, and connections that give up soon where the server hangs."""
    timeout_s = 0.15 if "hung" in request.node.name else 10.0
    monkeypatch.setattr(backoff, "LONGEST_S", 0.02)
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr("orion_streams.agents.apps.connect", lambda url: connect(url, timeout_s))


@contextmanager
def away(own: Own, how: str) -> Iterator[None]:
    """The server killed, and started again on the same data and port; or stopped, and let go on."""
    if how == "hung":
        os.kill(own.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(own.server.pid, signal.SIGCONT)
        return
    own.server.kill()
    yield
    own.server.start()


async def tried(app: App, times: int) -> int:
    """Wait for so many failed tries; how many tasks there are then."""
    await eventually(lambda: app.outages.tries >= times, f"{times} tries")
    return len(asyncio.all_tasks())


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """How many lines of the log have these words."""
    return sum(words in line for line in caplog.messages)


async def told(caplog: pytest.LogCaptureFixture, processes: int, how: str) -> None:
    """Each process said once that Redis was away and once that it was back. One that had hung may be too
    slow once more, for clients with so little patience."""
    await eventually(
        lambda: said(caplog, "redis is away") == said(caplog, "redis is back after"), "that it is back"
    )
    began = said(caplog, "redis is away")
    assert began == processes or (how == "hung" and processes < began <= 3 * processes)


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_an_agent_holds_little_while_redis_is_away(
    own: Own, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Through hundreds of tries the number of its tasks does not grow and only what its runs ended with
    waits to be written; one line at the beginning, one at the end; then every result is there, and
    where its acknowledgement was lost, the same once more."""
    caplog.set_level(logging.INFO)
    writers, make = list[ResultWriter](), ResultWriter.__init__

    def noted(writer: ResultWriter, *arguments: object) -> None:
        writers.append(writer)
        make(writer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ResultWriter, "__init__", noted)
    many = LONG if how == "killed" else LONG // 5
    async with running(limited(own.bench.config, slots=4)) as app:
        runs = [await own.bench.run(f"r{n}") for n in range(4)]
        for work_id in runs:
            await own.bench.said(work_id, "tokens")
        with away(own, how):
            await own.answered()
            before = await tried(app, many)
            assert await tried(app, 3 * many) <= before + A_FEW
            [writer] = writers
            assert writer._queue.qsize() <= 2 * len(runs)
        for work_id in runs:
            first, *again = await own.bench.all_ends(work_id)
            assert first.head.op == "completed"
            assert all((each.head, each.fields) == (first.head, first.fields) for each in again)
        await own.bench.healthy(lambda head: head.in_hand == (), "health resumes")
        await told(caplog, 1, how)
        assert app.fatal is None


@pytest.mark.parametrize("how", ["killed", pytest.param("hung", marks=pytest.mark.everything)])
async def test_a_router_holds_little_while_redis_is_away(
    own: Own, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The same for the router, which then answers what came before and after, each once."""
    caplog.set_level(logging.INFO)
    many = LONG if how == "killed" else LONG // 5
    async with routing(own.bench.config) as app, running(own.bench.config):
        await ask(own.bench, "q1")
        await answered(own.bench, "q1")
        with away(own, how):
            before = await tried(app, many)
            assert await tried(app, 3 * many) <= before + A_FEW
        await ask(own.bench, "q2")
        await answered(own.bench, "q1", "q2")
        await told(caplog, 2, how)
        assert app.fatal is None


async def test_a_server_that_refuses_writes_is_not_back(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    """Out of memory reads work: nobody says that Redis is back until it takes writes again."""
    caplog.set_level(logging.INFO)
    async with routing(own.bench.config) as app, running(own.bench.config) as agent:
        await ask(own.bench, "q1")
        await answered(own.bench, "q1")
        await own.bench.redis.config_set("maxmemory", 1)
        await tried(agent, LONG // 10)
        assert said(caplog, "redis is back") == 0
        await own.bench.redis.config_set("maxmemory", 0)
        await ask(own.bench, "q2")
        await answered(own.bench, "q1", "q2")
        assert app.fatal is None


def test_pauses_grow_to_a_cap_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is below the shortest or above the cap, however many tries fail; of a hundred that failed
    together hardly two try again together; after a success they begin anew."""
    monkeypatch.setattr(backoff, "FIRST_S", 0.1)
    monkeypatch.setattr(backoff, "LONGEST_S", 2.0)
    many = [reconnect_backoff() for _ in range(100)]
    pauses = [[each.compute(tries) for tries in range(1500)] for each in many]
    assert all(0.1 <= min(each) < max(each) == 2.0 for each in pauses)
    for tries in (1, 2, 3, 5, 50):
        assert len({sum(each[:tries]) for each in pauses}) > 90
    many[0].reset()
    assert many[0].compute(0) == 0.1


class Heard(logging.Handler):
    """A log's lines, on a clock that is moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.now_s = 1000.0
        own = logging.Logger("away")
        own.addHandler(self)
        self.outages = OutageLog(own, lambda: self.now_s)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_an_absence_is_said_once_then_every_minute_and_at_its_end() -> None:
    """A try a second for 83 s: one line at once, one after a minute, one at the end; the next outage is
    a new one."""
    heard = Heard()
    for _ in range(83):
        heard.outages.failed("router", "redis is away (no)")
        heard.now_s += 1
    heard.outages.worked("router")
    heard.outages.worked("router")
    assert heard.lines == [
        "redis is away (no)",
        f"redis is away (no) (for {LOG_AGAIN_S:.0f} s, 61 tries)",
        "redis is back after 83 s",
    ]
    heard.outages.failed("router", "redis is away (again)")
    assert heard.lines[-1] == "redis is away (again)"


def test_redis_is_back_when_all_parts_work() -> None:
    """Reads that work while writes fail are no end of it."""
    heard = Heard()
    heard.outages.failed("health", "redis is away (OOM)")
    heard.outages.failed("results", "redis is away (OOM)")
    heard.outages.worked("work")
    heard.outages.worked("results")
    assert heard.lines == ["redis is away (OOM)"]
    heard.outages.worked("health")
    assert heard.lines[1:] == ["redis is back after 0 s"]


def test_what_is_away_may_change() -> None:
    """A server that came back without the stream: that is said at once, under its own name."""
    heard = Heard()
    heard.outages.failed("work", "redis is away (no)")
    heard.outages.failed("work", "no stream work:n1", "stream work:n1")
    heard.outages.worked("work")
    assert heard.lines[1:] == ["no stream work:n1", "stream work:n1 is back after 0 s"]
