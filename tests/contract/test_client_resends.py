"""What the client does when a connection breaks or an id was asked before: one effect, one answer."""

import asyncio
from itertools import count as count_from
from pathlib import Path
from typing import Any

import pytest

from orion_streams import Answer, AsyncClient, Piece, RequestFailedError, Restarted
from orion_streams.client import streams_client
from orion_streams.model import events as ev
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.chaos.proxy import Proxy
from tests.contract.contract_grid import MODEL, Run, connected, count, echo, running
from tests.helpers import eventually


async def test_a_lost_answer_of_the_write_has_one_effect(valkey_url: str, prefix: str) -> None:
    """Cut after the XADD was applied and before its answer, the client sends again: one effect, one end."""
    async with running(valkey_url, prefix) as grid, Proxy(valkey_url) as proxy:
        proxy.lose_answers = 3
        async with AsyncClient(proxy.url, prefix=prefix) as streams_client:
            answer = await streams_client.generate(MODEL, "once", id="safe")
        assert await count(grid, ev.RequestAccepted) == 1
        sent = await grid.redis.xlen(f"{prefix}requests:brain")
        ends = [reply["kind"] for reply in await grid.ends("safe")]
    assert proxy.lost == 3
    assert sent >= 4
    assert (answer.text, len(grid.runs)) == ("once", 1)
    assert ends.count("done") == 1
    assert set(ends) <= {"done", "known"}


async def test_a_reader_that_was_cut_misses_nothing(valkey_url: str, prefix: str) -> None:
    """With every connection cut in the middle of an answer, the pieces stay gapless and the end comes."""
    cut = asyncio.Event()

    async def script(run: Run) -> None:
        await run.token("before ")
        await cut.wait()
        await run.token("after")
        await run.done("before after")

    async with running(valkey_url, prefix, script) as grid, Proxy(valkey_url) as proxy:
        async with AsyncClient(proxy.url, prefix=prefix) as streams_client:
            joined = ""
            async for event in streams_client.stream(MODEL, "go", id="cut"):
                if isinstance(event, Piece):
                    joined += event.text
                    if not cut.is_set():
                        assert proxy.cut() > 0
                        cut.set()
        assert joined == "before after"
        assert len(grid.runs) == 1


@pytest.mark.parametrize("cut", [False, True])
async def test_what_cannot_be_sent_is_not_sent_by_more_and_more(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """While writes are refused and reads work, whoever sends repeats itself, and nobody else sends; where
    the reader is cut again and again, each open request waits to be sent once more, not more often."""
    monkeypatch.setattr(streams_client, "FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(streams_client, "BLOCK_MS", 50 if cut else 5)
    with EmbeddedServer(tmp_path) as server:
        async with AsyncClient(server.url, prefix=prefix) as brain:
            redis: Any = connect(server.url)
            await redis.config_set("min-replicas-to-write", 1)
            asked = [asyncio.create_task(brain.generate(MODEL, "x", id=f"q{n}")) for n in range(3)]

            polls = count_from(1)

            async def refused() -> bool:
                if cut:
                    poll = next(polls)
                    if poll % 8 == 0:  # between two cuts a read succeeds
                        await redis.client_kill_filter(_type="normal", skipme=True)
                    return poll > 120
                found = (await redis.info("errorstats")).get("errorstat_NOREPLICAS", {"count": 0})
                return int(found["count"]) > 15

            await eventually(refused, "that writes are refused")
            assert len(brain._background) <= (len(asked) if cut else 0)
            await redis.config_set("min-replicas-to-write", 0)

            async def all_sent() -> bool:
                return await redis.xlen(f"{prefix}requests:brain") >= len(asked) and not brain._background

            await eventually(all_sent, "that all are sent")
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await redis.aclose()


async def test_another_process_asks_again_and_gets_the_same_answer(valkey_url: str, prefix: str) -> None:
    """Under a known id nothing runs: the first answer is found by the `known` reply."""
    async with connected(valkey_url, prefix) as (grid, streams_client):
        first = await streams_client.generate(MODEL, "same", id="k1")
        async with AsyncClient(valkey_url, prefix=prefix) as other:
            again = await other.generate(MODEL, "same", id="k1")
            streamed = [event async for event in other.stream(MODEL, "same", id="k1")]
        assert (again, streamed) == (first, [first])
        assert len(grid.runs) == 1
        assert [reply["kind"] for reply in await grid.ends("k1")] == ["done", "known", "known"]


async def test_a_known_end_without_an_answer_is_the_same_error(valkey_url: str, prefix: str) -> None:
    """Asking again for an id that failed raises what it raised the first time."""

    async def script(run: Run) -> None:
        await run.fail("bad_options", "request", "Ollama: no such thing")

    async with connected(valkey_url, prefix, script) as (grid, streams_client):
        for _ in range(2):
            with pytest.raises(RequestFailedError) as caught:
                await streams_client.generate(MODEL, "x", id="bad")
            assert (caught.value.code, caught.value.message) == ("refused", "Ollama: no such thing")
        assert len(grid.runs) == 2  # refused by two nodes, then final


async def test_a_known_reply_that_is_gone_says_so(valkey_url: str, prefix: str) -> None:
    """When the terminal reply was deleted, asking again raises RequestFailedError with code reply_gone."""
    async with connected(valkey_url, prefix) as (grid, streams_client):
        await streams_client.generate(MODEL, "x", id="gone")
        [done] = await grid.ends("gone")
        await grid.redis.xdel(f"{prefix}replies:brain", done["entry"])
        with pytest.raises(RequestFailedError) as caught:
            await streams_client.generate(MODEL, "x", id="gone")
    assert caught.value.code == "reply_gone"


async def test_an_end_that_comes_twice_is_dropped_and_counted(valkey_url: str, prefix: str) -> None:
    """A terminal reply written a second time changes nothing and is counted."""
    waiting = asyncio.Event()

    async def script(run: Run) -> None:
        if run.prompt == "slow":
            await waiting.wait()
        await echo(run)

    async with connected(valkey_url, prefix, script) as (grid, streams_client):
        slow = asyncio.create_task(streams_client.generate(MODEL, "slow"))
        await streams_client.generate(MODEL, "x", id="twice")
        await grid.redis.xadd(f"{prefix}replies:brain", {"id": "twice", "kind": "done", "text": "y"})
        await eventually(lambda: streams_client.duplicates == 1, "a duplicate was counted")
        waiting.set()
        assert (await slow).text == "slow"


async def test_an_attempt_number_that_came_again_restarts_the_answer(valkey_url: str, prefix: str) -> None:
    """Unannounced, after a lost tail: its work id tells it apart, and halves of the two never meet."""
    told = [
        {"kind": "token", "attempt": "1", "work_id": "1-0", "seq": "1", "text": "old "},
        {"kind": "token", "attempt": "1", "work_id": "2-0", "seq": "1", "text": "new "},
        {"kind": "token", "attempt": "1", "work_id": "1-0", "seq": "2", "text": "half"},
        {"kind": "token", "attempt": "1", "work_id": "2-0", "seq": "2", "text": "one"},
        {"kind": "done", "attempt": "1", "work_id": "3-0", "text": "another"},
    ]
    heard = []
    async with AsyncClient(valkey_url, prefix=prefix) as streams_client:
        redis: Any = streams_client._redis
        events = streams_client.stream(MODEL, "x", id="q")
        step = asyncio.ensure_future(anext(events))
        await eventually(lambda: redis.xlen(f"{prefix}requests:brain"), "the request was sent")
        for reply in told:
            await redis.xadd(f"{prefix}replies:brain", {"id": "q", **reply})
            if reply["text"] != "half":  # which is not heard
                heard.append(await step)
                step = asyncio.ensure_future(anext(events))
                if isinstance(heard[-1], Restarted):
                    heard.append(await step)
                    step = asyncio.ensure_future(anext(events))
        await asyncio.wait([step])
        assert isinstance(step.exception(), StopAsyncIteration)
    assert [each.text if isinstance(each, Piece | Answer) else "restarted" for each in heard] == [
        *("old ", "restarted", "new ", "one", "restarted", "another")
    ]
