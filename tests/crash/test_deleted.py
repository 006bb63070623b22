"""Streams, groups or the whole keyspace deleted under the running grid: said in one clear line, never
skipped over; where it is safe the grid goes on, else the router stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from orion_streams.agents import stream_losses
from orion_streams.agents.retention import Retention
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.commit import GROUP, Extent
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import verify
from orion_streams.runtime.faust_redis import App
from tests.agents.agent_bench import Bench, process, running
from tests.agents.test_router_app import answered
from tests.agents.test_router_app import ask as ask_bench
from tests.crash.crash_roles import NODE
from tests.crash.life import Life, Plan
from tests.crash.mortal import mortality
from tests.eventlog.driving import running as leading
from tests.helpers import Agent, Store, eventually, settle


async def asked(life: Life, request_id: str) -> None:
    """Send one more request, which is answered once."""
    await life.ask(request_id)
    await ended(life, request_id)


async def ended(life: Life, request_id: str) -> list[dict[str, str]]:
    """Wait for the answer to a request, its only end, and return it in a list."""
    await eventually(lambda: life.ends(request_id), f"the end of {request_id}")
    ends = await life.ends(request_id)
    assert [row["kind"] for row in ends] == ["done"]
    return ends


async def said(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait for the line with these words; it comes once."""
    await eventually(lambda: words in caplog.text, f"{words!r} in the log")
    assert len([line for line in caplog.messages if words in line]) == 1, caplog.messages


@pytest.mark.parametrize("keys", [("log",), ("guard",), ("log", "guard"), ()], ids=str)
async def test_without_log_or_guard_the_router_stops(
    bench: Bench, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    """Log, guard, both, or every key deleted under a running router: exit code 1, one last line that names
    them and says what to do, and no new log is begun."""
    async with running(bench.config), process(tmp_path, bench, "router") as router:
        await ask_bench(bench, "q1")
        await answered(bench, "q1")
        gone = [bench.prefix + key for key in keys]
        gone = gone or [key.decode() async for key in bench.redis.scan_iter(bench.prefix + "*")]
        await bench.redis.delete(*gone)
        assert await router.ended() == 1
        said = router.log()
    [line] = [line for line in said.splitlines() if "CRITICAL" in line]
    assert f"{bench.prefix}guard is at commit" in line
    assert f"{bench.prefix}log at" in line
    assert "what was deleted is lost" in line
    assert f"redis-cli --scan --pattern '{bench.prefix}*' | xargs redis-cli DEL" in line
    assert "Traceback" not in said
    if "guard" not in keys or "log" in keys:
        assert not await bench.redis.exists(f"{bench.prefix}log")
    if "log" not in keys or "guard" in keys:
        assert not await bench.redis.exists(f"{bench.prefix}guard")


@pytest.mark.parametrize("stream", ["requests:brain", "results:n1", "health:n1", "replies:brain"])
async def test_a_deleted_stream_is_said_and_the_grid_goes_on(
    life: Life, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the stream, how far it was read and what is lost; the next request is answered, and a
    router that starts later has nothing to complain of."""
    router = life.router.router
    await eventually(lambda: router._extents.get(stream, Extent()).length > 0, f"a look at {stream}")
    guard = router.guard
    await life.store.drop(stream)
    await said(caplog, f"{life.config.prefix}{stream} was deleted")
    [line] = [line for line in caplog.messages if "was deleted" in line]
    assert stream_losses.REST[stream.partition(":")[0]] in line
    if stream == "requests:brain":
        assert f"was read up to {guard.cursors[stream]}" in line
    await asked(life, "q2")
    await life.router.bury()
    life.start_router()
    await asked(life, "q3")
    assert life.ollama.runs == 3
    await said(caplog, "was deleted")


@pytest.fixture
def requests_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trim no requests, from the router's first round on: one that is under way would still drop some."""
    monkeypatch.setattr(Retention, "trim_requests", AsyncMock())


@pytest.mark.usefixtures("requests_stay")
async def test_a_stream_behind_its_cursor_is_read_again(life: Life) -> None:
    """A clock that was put back before the stream was made anew: its entries, though below the cursor, are
    taken. A trim just before the next look may drop them (their client asks again): not here."""
    cursor = life.router.router.guard.cursors["requests:brain"]
    await life.store.drop("requests:brain")
    await life.ask("q2", entry_id="5-0")
    await ended(life, "q2")
    await life.ask("q3", entry_id="6-0")
    await ended(life, "q3")
    assert life.router.router.guard.cursors["requests:brain"] == "6-0" != cursor


async def test_an_open_request_whose_entry_is_deleted_still_ends(life: Life) -> None:
    """What runs already does not need its entry any more; what would need it again ends as body_gone."""
    life.ollama.hold.clear()
    await life.ask("q2")
    await life.token("q2")
    await life.store.drop("requests:brain")
    life.ollama.hold.set()
    await ended(life, "q2")
    life.ollama.hold.clear()
    await life.ask("q3")
    await life.token("q3")
    await life.store.drop("requests:brain")
    await life.agent.bury()
    life.start_agent()
    await eventually(lambda: life.ends("q3"), "the end of q3")
    assert [(row["kind"], row["code"]) for row in await life.ends("q3")] == [("error", "body_gone")]


async def test_a_result_deleted_before_it_was_taken_is_made_again(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of a run is gone before the router saw it: once the node shows that it has nothing in hand,
    the request is tried again, and has one answer."""
    results = life.agent.results
    add = results._add

    async def add_and_lose(batch: list[Any]) -> list[Any]:
        if b'"op":"completed"' not in batch[-1][0]["head"]:
            return await add(batch)
        results._add = add  # type: ignore[method-assign]
        async with life.redis.pipeline(transaction=True) as pipe:
            pipe.xadd(results._key, batch[-1][0])
            pipe.delete(results._key)
            return list(await pipe.execute())[:1]

    results._add = add_and_lose  # type: ignore[method-assign]
    await life.ask("q2")
    [end] = await ended(life, "q2")
    assert (end["attempt"], life.ollama.runs) == ("2", 3)
    await said(caplog, f"{life.config.prefix}results:n1 was deleted")


@pytest.mark.parametrize("what", ["stream", "group", "group and router"])
async def test_work_that_nobody_had_read_is_tried_again(
    life: Life, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A node's work or its group is deleted with a run that no agent has read: it is said, the request is
    answered by a new attempt, and what ran before is not handed out again; also by a new router, which does
    not know that the former one made the group anew."""
    await life.agent.bury()
    work = f"{life.config.prefix}work:{NODE}"
    await life.hand_out("q2")
    if what == "stream":
        await life.store.drop(f"work:{NODE}")
    else:
        await life.redis.xgroup_destroy(work, GROUP)
    await said(caplog, f"{work} or its group was deleted")
    if what == "group and router":
        await life.router.bury()
        life.start_router()
    life.start_agent()
    [end] = await ended(life, "q2")
    assert (end["attempt"], life.ollama.runs) == ("2", 2)
    await asked(life, "q3")
    assert life.ollama.runs == 3


async def test_a_running_answer_survives_the_loss_of_its_group(life: Life) -> None:
    """The agent goes on with what it holds, and reads on once the router has made the group anew."""
    life.ollama.hold.clear()
    await life.ask("q2")
    await life.token("q2")

    async def read() -> bool:
        node = life.router.router.state.grid.nodes[NODE]
        return node.work_read == next(iter(node.assignments))

    await eventually(read, "health says that the run was read")
    await life.redis.xgroup_destroy(f"{life.config.prefix}work:{NODE}", GROUP)
    life.ollama.hold.set()
    [end] = await ended(life, "q2")
    assert (end["attempt"], life.ollama.runs) == ("1", 2)
    await asked(life, "q3")
    assert life.ollama.runs == 3


async def test_deleted_snapshots_are_replaced(
    exact_url: str,
    app: App,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the log's beginning trimmed, nobody could load it any more: the running router keeps what it
    knows, says so, and the next start and a replay go on from there."""
    monkeypatch.setattr("orion_streams.agents.apps.KEEP_EVERY_S", 0.0)
    life = Life(exact_url, prefix, Plan("trimmed", trimmed=True), app)
    with mortality():
        await life.ask()
        life.start_router()
        life.start_agent()

        async def trimmed() -> bool:
            return await life.rests() and await life.store.log.first_position() > 1

        await eventually(trimmed, "the log is trimmed")
        await life.agent.bury()
        await eventually(life.reads_no_more, "all inputs taken")
        retention = life.router.router.retention
        await eventually(lambda: "verifying" not in retention._tasks, "no snapshot in the making")
        await life.store.drop("snapshots")
        await said(caplog, "all snapshots were deleted")
        await life.router.bury()
        log = RedisLog(life.redis, prefix)
        assert (await load(log)).digest == life.router.router.state.digest
        life.start_router()
        life.start_agent()
        await asked(life, "q2")
        await life.router.bury()
        assert (await verify(LiveSource(log, Config()))).diverged == 0
        await life.close()


async def test_a_follower_notices_too(store: Store, config: Config) -> None:
    """A router that only follows ends as the leader does when the log was deleted."""
    agent = Agent(store, "orion-worker")
    router = await leading(store, config, agent)
    await settle(router)
    router.following = True
    await router.follow(10)
    await store.drop("log")
    with pytest.raises(LogError, match="what was deleted is lost"):
        await router.follow(10)


@pytest.mark.parametrize(
    ("now", "deleted"),
    [
        (Extent("1-0", "5-0", 5, 5), False),
        (Extent("1-0", "9-0", 9, 9), False),
        (Extent("8-0", "9-0", 2, 9), False),
        (Extent("0-0", "9-0", 0, 9), False),
        (Extent(), True),
        (Extent("6-0", "6-0", 1, 1), True),
        (Extent("3-0", "4-0", 6, 6), True),
        (Extent("6-0", "15-0", 9, 9), True),
        (Extent("9-0", "15-0", 6, 9), True),
    ],
)
def test_trimming_is_no_deletion(now: Extent, deleted: bool) -> None:
    """A stream of five entries that grew and was trimmed is the same one; fewer ever added, or other
    entries where the old ones were never taken out, is not."""
    assert stream_losses.was_deleted(Extent("1-0", "5-0", 5, 5), now) is deleted
