"""The worker process for the past: what it answers, and what becomes of one that is killed, stuck or too
large."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psutil
import pytest

from orion_streams.agents import past_log, past_process
from orion_streams.agents.past_messages import Bounds, Question, Scanned
from orion_streams.agents.past_process import PastProcess
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.gateway.page_day import MOST_POINTS, Day
from orion_streams.gateway.page_recent import MOST_DECISIONS, POINTS, RecentRows
from orion_streams.gateway.page_rows import PageCaller, View
from orion_streams.gateway.refusal import Refusal
from orion_streams.gateway.timestamps import on_clock
from orion_streams.model.state import Run
from orion_streams.runtime.connection import connect
from tests.gateway.put_log import put_log
from tests.helpers import eventually
from tests.replay.decided import Row
from tests.replay.logs import MASTER, START_MS, WORKER, Log, accepted, beats, recorded, routed

ALL = PageCaller("brain", sees_all=True)
STUCK = "import sys, threading; sys.stdin.buffer.read(1); threading.Event().wait()"
GREEDY = "import sys; sys.stdin.buffer.read(1); sys.exit(3)"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """A log of some thousand events, with a hot node."""
    return recorded("decode-heavy", "hot-afternoon", 60)


@asynccontextmanager
async def worker(url: str, prefix: str, *argv: str) -> AsyncIterator[PastProcess]:
    """A worker that ends with the block."""
    past = PastProcess(url, prefix, argv or past_process.ARGV)
    try:
        yield past
    finally:
        await past.close()


@pytest.fixture
async def past(valkey_url: str, prefix: str, rows: list[Row]) -> AsyncIterator[PastProcess]:
    """A worker of that log, with snapshots."""
    redis: Any = connect(valkey_url)
    await put_log(redis, prefix, rows, snapshot_events=1_000)
    async with worker(valkey_url, prefix) as opened:
        yield opened
    await redis.delete(f"{prefix}log", f"{prefix}snapshots")
    await redis.aclose()


async def view_at(past: PastProcess, caller: PageCaller = ALL, **where: Any) -> View:
    """The page as it was."""
    raw = await past.ask(Question(op="past", caller=caller, **where))
    return msgspec.json.decode(raw, type=View)


async def crowded(past: PastProcess, last: int) -> int:
    """A position at which somebody waits while somebody is answered."""
    for position in range(last // 10, last, last // 40):
        found = await view_at(past, position=position)
        if found.queue and any(card.doing for card in found.nodes):
            return position
    raise AssertionError("nobody ever waits")


async def refused(past: PastProcess, question: Question) -> tuple[int, str]:
    """How a question is refused."""
    with pytest.raises(Refusal) as error:
        await past.ask(question)
    return error.value.status, error.value.message


async def test_any_position_is_the_grid_as_it_was(
    past: PastProcess, rows: list[Row], valkey_url: str, prefix: str
) -> None:
    """The same as folding the log to there: at the first, around snapshots, in the middle of a commit, at
    the last; forwards and backwards."""
    last = len(rows)
    redis = connect(valkey_url)
    try:
        for position in (1, 2, 999, 1_000, 1_001, last // 2, last, last - 1, 17, 1_500):
            found = await view_at(past, position=position)
            grid = (await load(RedisLog(redis, prefix), position)).grid
            assert (found.position, found.at_ms, found.live) == (position, grid.server_ms, False)
            assert {card.name: card.temp_mc for card in found.nodes} == {
                name: node.temp_mc for name, node in grid.nodes.items()
            }
            assigned = [work for node in grid.nodes.values() for work in node.assignments.values()]
            held = sorted(work.request if isinstance(work, Run) else "/" for work in assigned)
            shown = sorted(f"{each.client}/{each.id}" for card in found.nodes for each in card.doing)
            assert shown == held
    finally:
        await redis.aclose()


async def test_the_minutes_before_belong_to_a_moment(past: PastProcess, rows: list[Row]) -> None:
    """Tracks and decisions up to it, bounded, and none of what came after; wherever it was asked from."""
    last = len(rows)
    for position in (last, last // 2, last - 100, last // 2):
        found = await view_at(past, position=position)
        assert 0 < len(found.decisions) <= MOST_DECISIONS
        assert max(each.position for each in found.decisions) <= position
        assert all(len(points) <= POINTS for points in found.track.values())
        assert max(point[0] for points in found.track.values() for point in points) <= found.at_ms
    raw = await past.ask(Question(op="recent"))
    recent = msgspec.msgpack.decode(raw, type=RecentRows)
    assert recent.decisions == (await view_at(past, position=last)).decisions


async def test_a_neighbour_is_folded_from_what_is_known(
    past: PastProcess, rows: list[Row], valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who drags the time bar is not made to wait for a snapshot each time; the control: a log that is
    another one at that position is loaded anew."""
    loaded: list[int] = []
    load_it = load

    async def counted(store: Any, until: int | None = None) -> Any:
        loaded.append(until or 0)
        return await load_it(store, until)

    monkeypatch.setattr(past_log, "load", counted)
    monkeypatch.setattr(past_log, "RECENT_EVENTS", 300)
    redis = connect(valkey_url)
    try:
        known = past_log.PastLog(RedisLog(redis, prefix))
        for position in (1_700, 1_750, 1_900):
            assert (await known.recent(position))[0].grid.position == position
        assert len(loaded) == 1
        for state in known._states.values():
            state.digest = b"another"
        await known.recent(1_900)
        assert len(loaded) == 2
    finally:
        await redis.aclose()


async def test_a_time_is_the_last_commit_until_then(past: PastProcess, rows: list[Row]) -> None:
    """And the grid has aged since. Before the log, and beyond its end, there is nothing."""
    some = await view_at(past, position=len(rows) // 2)
    same = await view_at(past, ms=some.at_ms)
    assert same.at_ms == some.at_ms
    later = await view_at(past, ms=some.at_ms + 300)
    assert later.at_ms == some.at_ms + 300
    bounds = msgspec.msgpack.decode(await past.ask(Question(op="bounds")), type=Bounds)
    assert (bounds.first, bounds.last) == (1, len(rows))
    assert (await view_at(past, ms=bounds.to_ms + 1_000)).position == len(rows)
    for ms, said in (
        (bounds.from_ms - 1, f"the log begins {on_clock(bounds.from_ms, 540)}"),
        (bounds.to_ms + past_log.LATER_MS + 1, f"the log ends {on_clock(bounds.to_ms, 540)}"),
    ):
        assert await refused(past, Question(op="past", ms=ms, tz=540)) == (404, said)


async def test_beyond_the_log_is_a_sentence(past: PastProcess, rows: list[Row]) -> None:
    """404: too early, too late, an unknown node, request or question."""
    for question, words in (
        (Question(op="past", position=0), "begins at position 1"),
        (Question(op="past", position=len(rows) + 1), f"ends at position {len(rows)}"),
        (Question(op="day", node="nobody"), "no such node"),
        (Question(op="why", number=1), "nothing is known"),
        (Question(op="why", number=len(rows) + 5), "nothing is known"),
        (Question(op="nonsense"), "no such question"),
    ):
        status, sentence = await refused(past, question)
        assert (status, words in sentence) == (404, True), question


async def test_an_empty_log_has_no_past(valkey_url: str, prefix: str) -> None:
    """Each question says so, or is empty."""
    async with worker(valkey_url, prefix) as past:
        for question in (
            Question(op="past", position=1),
            Question(op="day", node="one"),
            Question(op="past"),
        ):
            assert "the log is empty" in (await refused(past, question))[1]
        assert msgspec.msgpack.decode(await past.ask(Question(op="bounds")), type=Bounds).last == 0
        found = msgspec.msgpack.decode(await past.ask(Question(op="scan")), type=Scanned)
        assert (found.ticks, found.complete) == ([], True)
        rows = msgspec.msgpack.decode(await past.ask(Question(op="recent")), type=RecentRows)
        assert (rows.since, rows.position, rows.decisions) == (0, 0, [])


async def test_a_trimmed_log_is_reached_from_its_snapshot(
    past: PastProcess, rows: list[Row], valkey_url: str, prefix: str
) -> None:
    """What is left of it is all there; what was before is said to be trimmed."""
    whole = await view_at(past, position=2_500)
    redis: Any = connect(valkey_url)
    snapshot = await RedisLog(redis, prefix).snapshot_before(1_999)
    assert snapshot is not None
    first = snapshot.position + 1
    await redis.xtrim(f"{prefix}log", minid=f"{first}-0", approximate=False)
    await redis.aclose()
    async with worker(valkey_url, prefix) as another:
        for opened in (past, another):
            found = await view_at(opened, position=2_500)
            assert (found.nodes, found.queue) == (whole.nodes, whole.queue)
            assert "is trimmed" in (await refused(opened, Question(op="past", position=first - 1)))[1]


async def test_the_whole_log_is_read_for_ticks_piece_by_piece(past: PastProcess, rows: list[Row]) -> None:
    """Complete in the end, and then at once; a hot afternoon has some."""
    pieces = 0
    while True:
        pieces += 1
        found = msgspec.msgpack.decode(await past.ask(Question(op="scan")), type=Scanned)
        if found.complete:
            break
    assert pieces == -(-len(rows) // past_log.SCAN_EVENTS)
    assert {each.kind for each in found.ticks} >= {"hot"}
    assert all(each.until_ms > each.ms for each in found.ticks[:-3] if each.kind == "hot")
    assert msgspec.msgpack.decode(await past.ask(Question(op="scan")), type=Scanned) == found


async def test_a_request_tells_why_it_went_there(past: PastProcess, rows: list[Row]) -> None:
    """While it waits, once it was sent, and long after; others' without the id."""
    whole = await view_at(past, position=await crowded(past, len(rows)))
    [sent, *_] = [each for card in whole.nodes for each in card.doing]
    waits = whole.queue[0]

    async def why(number: int, caller: PageCaller = ALL, **where: Any) -> Any:
        return msgspec.json.decode(
            await past.ask(Question(op="why", number=number, caller=caller, **where))
        )

    now = await why(sent.number, position=whole.position)
    assert (now["client"], now["id"], now["model"]) == (sent.client, sent.id, sent.model)
    assert now["text"].startswith("went to ")
    assert (await why(sent.number))["lines"] == now["lines"]
    first = await why(waits.number, PageCaller("nobody"), position=whole.position)
    assert (first["id"], first["client"]) == ("", waits.client)
    assert not first["text"].startswith("went to ")


async def test_a_day_has_a_point_a_minute(past: PastProcess, rows: list[Row]) -> None:
    """In their order, within the log; as it was at an earlier moment, without what came later."""
    day = msgspec.json.decode(await past.ask(Question(op="day", node=WORKER)), type=Day)
    times = [point[0] for point in day.points]
    assert times == sorted(times)
    assert len({ms // 60_000 for ms in times}) == len(times) <= MOST_POINTS
    assert day.from_ms <= times[0] <= times[-1] <= day.to_ms
    raw = await past.ask(Question(op="day", node=WORKER, position=len(rows) // 2))
    half = msgspec.json.decode(raw, type=Day)
    assert half.points == day.points[: len(half.points)]
    assert len(half.points) < len(day.points)


def test_a_day_of_many_events_is_looked_at_in_windows() -> None:
    """However busy it was: a bounded part of it is read, evenly."""
    few = past_log.windows(10, 500)
    assert few == [(10, 490)]
    many = past_log.windows(1_000, 10_001_000)
    assert sum(count for _, count in many) == MOST_POINTS * past_log.WINDOW <= past_log.DAY_EVENTS
    assert many[0][0] == 1_000
    assert 9_990_000 < many[-1][0] < 10_001_000


async def test_a_long_silence_has_no_end_in_a_day(valkey_url: str, prefix: str) -> None:
    """A node that has died stays on the page's day, and its last heat with it."""
    log = Log()
    beats(log, MASTER, 1, 400, temp_mc=50_000)
    beats(log, WORKER, 400, 401)
    number = log.commit(401_000, accepted("brain/q"))
    log.commit(402_000, routed("brain/q", WORKER))
    redis: Any = connect(valkey_url)
    await put_log(redis, prefix, log.rows)
    async with worker(valkey_url, prefix) as past:
        day = msgspec.json.decode(await past.ask(Question(op="day", node=MASTER)), type=Day)
        assert (day.from_ms, day.to_ms, len(day.points)) == (START_MS, START_MS + 402_000, 7)
        found = msgspec.json.decode(await past.ask(Question(op="why", number=number, caller=ALL)))
        assert found["node"] == WORKER
        assert (await view_at(past, ms=START_MS + 402_000 + 30_000)).nodes[0].state == "stale"
    await redis.delete(f"{prefix}log")
    await redis.aclose()


# the process


async def test_one_that_is_killed_while_it_works_is_started_again(
    past: PastProcess, rows: list[Row]
) -> None:
    """The question is answered all the same, by another process."""
    await view_at(past, position=1)
    first = past.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    asking = asyncio.create_task(view_at(past, position=len(rows)))
    await eventually(past._turn.locked, "it has its turn")
    os.kill(first, signal.SIGKILL)
    assert (await asking).position == len(rows)
    assert past.pid not in (None, first)


async def test_one_that_is_stuck_is_killed_and_the_next_answers(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with when to ask again; what it held up goes on."""
    monkeypatch.setattr(past_process, "ANSWER_S", 0.5)
    async with worker(valkey_url, prefix, sys.executable, "-c", STUCK) as past:
        status, sentence = await refused(past, Question(op="bounds"))
        assert (status, "within 0.5 s" in sentence) == (503, True)
        assert past.pid is None
        monkeypatch.setattr(past_process, "ANSWER_S", 15.0)
        past._argv = past_process.ARGV
        assert msgspec.msgpack.decode(await past.ask(Question(op="bounds")), type=Bounds).last == 0


async def test_one_that_dies_each_time_is_said(valkey_url: str, prefix: str) -> None:
    """503, not a third process."""
    async with worker(valkey_url, prefix, sys.executable, "-c", GREEDY) as past:
        status, sentence = await refused(past, Question(op="bounds"))
        assert (status, "gateway's log" in sentence) == (503, True)
        assert past.pid is None


async def test_one_whose_server_is_away_says_so() -> None:
    """503; it tries again with the next question."""
    async with worker("redis://127.0.0.1:1/0", "t:") as past:
        status, sentence = await refused(past, Question(op="bounds"))
        assert (status, "away" in sentence) == (503, True)
        assert past.pid is not None


async def test_who_goes_away_leaves_nobody_elses_answer(past: PastProcess, rows: list[Row]) -> None:
    """A question that is given up is brought to its end: the next one gets its own answer, from the same
    process."""
    await view_at(past, position=1)
    pid = past.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asking = asyncio.create_task(view_at(past, position=5))
    await eventually(lambda: past._waiting, "it is asked")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    os.kill(pid, signal.SIGCONT)
    assert (await view_at(past, position=len(rows))).position == len(rows)
    assert past.pid == pid


async def test_only_so_many_wait(past: PastProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are told to come again; the control: those who wait are answered."""
    monkeypatch.setattr(past_process, "MOST_WAITING", 2)
    asking = [asyncio.create_task(past.ask(Question(op="bounds"), str(place))) for place in range(3)]
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(each, bytes) for each in ends] == [True, True, False]
    assert "too many" in str(ends[2])


async def test_who_asks_a_lot_leaves_room_for_others(past: PastProcess) -> None:
    """Of one place only so many may be open; another's is answered all the same, and afterwards its too."""
    many = [past.ask(Question(op="bounds"), "tablet") for _ in range(past_process.MOST_EACH + 1)]
    ends = await asyncio.gather(*many, past.ask(Question(op="bounds"), "phone"), return_exceptions=True)
    assert [isinstance(each, bytes) for each in ends] == [*[True] * past_process.MOST_EACH, False, True]
    assert await past.ask(Question(op="bounds"), "tablet")
    assert not past._waiting


async def test_it_is_bounded_and_ends_with_its_gateway(past: PastProcess) -> None:
    """A limit of memory, low priority, and nothing in its arguments that is secret; gone after the last
    question's pause, and with the gateway."""
    await view_at(past, position=1)
    assert past.pid is not None
    process = psutil.Process(past.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_DATA)
    assert 0 < soft == hard <= 500_000_000
    assert process.nice() >= 10
    assert "redis" not in " ".join(process.cmdline())
    past._kill()
    await eventually(lambda: past.pid is None, "it ended")
    await view_at(past, position=1)
    again = past.pid
    await past.close()
    assert again is not None
    assert not psutil.pid_exists(again)
