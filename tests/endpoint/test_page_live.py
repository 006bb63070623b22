"""The page's stream: what comes first, what comes after, and what a cut does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from orion_streams.agents import gateway_server, page_live
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.client.streams_client import AsyncClient
from orion_streams.gateway import page_view
from orion_streams.model.state import Grid
from tests.chaos.proxy import Proxy
from tests.contract.contract_grid import MODEL, running, stop
from tests.endpoint.event_stream import Tab, got, json_of, tab
from tests.endpoint.wire import wire
from tests.gateway.gateway_stage import Stage, gateway, serving
from tests.helpers import WAIT_S, eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten views a second."""
    monkeypatch.setattr(page_live, "BEAT_S", 0.1)


@pytest.fixture
async def stage(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway on this machine."""
    async with gateway(valkey_url, prefix, tmp_path) as opened:
        yield opened


ASKED = {"model": MODEL, "prompt": "Why?", "stream": False}


def positions(view: Any) -> list[int]:
    """Where its decisions stand."""
    return [each["position"] for each in view["decisions"]]


async def known(stage: Stage) -> None:
    """Wait until a request was answered, and all of the log is known: then nothing is told twice."""
    await stage.post("/api/generate", ASKED)

    async def is_known() -> bool:
        return bool((await json_of(stage.url, "/orion/v1/timeline"))["complete"])

    await eventually(is_known, "the log is read")
    async with tab(stage.url) as opened:
        await opened.until(lambda view: any("takes" in each["text"] for each in view["decisions"]))


async def test_the_first_view_is_whole_and_later_ones_bring_news(stage: Stage) -> None:
    """Sentence, cards and queue each time; tracks, decisions and ticks once; the id is the position."""
    await known(stage)
    async with tab(stage.url) as opened:
        first = await opened.next()
        assert first.id == first.view["position"]
        assert first.view["track"]["one"]
        assert first.view["live"] is True
        await stage.post("/api/generate", ASKED)
        later = await opened.until(
            lambda view: positions(view) and min(positions(view)) > max(positions(first.view))
        )
        assert "one takes" in later.view["decisions"][0]["text"]
        assert [card["name"] for card in later.view["nodes"]] == ["edge", "one", "two"]
        assert later.view["sentence"].startswith("All well")
        told = [await opened.next() for _ in range(3)]
    assert [each.id for each in told] == sorted(each.id for each in told)
    assert all(positions(each.view) == [] for each in told)


async def test_a_cut_stream_goes_on_where_it_was(stage: Stage) -> None:
    """By the id that it had: only what is new. One that nobody knows begins anew."""
    await known(stage)
    async with tab(stage.url) as opened:
        before = await opened.next()
    await stage.post("/api/generate", ASKED)
    async with tab(stage.url, f"Last-Event-ID: {before.id}") as again:
        found: list[int] = []
        while not found:
            found = positions((await again.next()).view)
    assert min(found) > before.id
    for unknown in ("999999999", "0", "x", "-1", "9" * 40):
        async with tab(stage.url, f"Last-Event-ID: {unknown}") as anew:
            told: set[int] = set()
            while not set(positions(before.view)) < told:
                told.update(positions((await anew.next()).view))


async def test_while_redis_is_away_the_page_says_so_and_comes_back(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views go on with how long ago it was heard; nothing is green; then all is well again, by itself."""
    monkeypatch.setattr("orion_streams.gateway.page_view.AWAY_MS", 300)
    monkeypatch.setattr("orion_streams.gateway.page_sentence.AWAY_MS", 300)
    monkeypatch.setattr("orion_streams.agents.grid_follower.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("orion_streams.agents.grid_follower.BLOCK_MS", 20)
    async with (
        Proxy(valkey_url) as proxy,
        running(valkey_url, prefix, clients=("gateway", "brain")) as grid,
    ):
        grid.url = proxy.url
        async with serving(grid, tmp_path) as stage, tab(stage.url) as opened:
            await opened.until(lambda view: view["tone"] == "ok")
            proxy.part()
            away = await opened.until(lambda view: view["tone"] == "bad")
            assert away.view["sentence"].startswith("Cannot hear Redis since ")
            assert "ok" not in {card["tone"] for card in away.view["nodes"]}
            more = await opened.next()
            assert more.view["heard_ms_ago"] > away.view["heard_ms_ago"]
            assert more.id == away.id
            proxy.join()
            back = await opened.until(lambda view: view["tone"] == "ok")
            assert back.id >= away.id
            await opened.until(lambda view: view["position"] > back.id)


async def test_a_tab_that_takes_nothing_is_dropped_and_others_go_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for."""
    monkeypatch.setattr(page_live, "SLOW_S", 0.1)
    monkeypatch.setattr(page_live, "encoded", lambda view, _: b"data: {}\n\n" + b": pad\n" * 100_000)
    async with wire(stage.url, buffer_bytes=4_096) as slow:
        await slow.send("GET /orion/v1/live HTTP/1.1", "Host: localhost")
        await eventually(lambda: slow.was_cut, "the slow one is cut")
    monkeypatch.undo()
    async with tab(stage.url) as opened:
        await opened.next()


async def test_so_many_tabs_and_no_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 for one more, until one is closed."""
    monkeypatch.setattr(page_live, "MOST_TABS", 1)
    async with tab(stage.url) as opened:
        await opened.next()
        refused = await got(stage.url, "/orion/v1/live")
        assert (refused.status, "retry-after" in refused.headers) == (503, True)

    async def is_let_in() -> bool:
        async with wire(stage.url) as line:
            await line.send("GET /orion/v1/live HTTP/1.1", "Host: localhost")
            return b" 200 " in await line.reader.readline()

    await eventually(is_let_in, "there is room again")


async def test_a_view_is_built_once_for_all_tabs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And encoded once for those who see the same, however many there are."""
    built: list[int] = []
    encoded: list[int] = []
    whole, encode = page_view.whole, page_live.encoded

    def counted(*args: Any, **options: Any) -> Any:
        built.append(1)
        return whole(*args, **options)

    def counted_too(*args: Any) -> bytes:
        encoded.append(1)
        return encode(*args)

    async def five_of(opened: Tab) -> None:
        for _ in range(5):
            await opened.next()

    async with AsyncExitStack() as held:
        tabs = [await held.enter_async_context(tab(stage.url)) for _ in range(10)]
        await asyncio.gather(*(each.next() for each in tabs))
        monkeypatch.setattr(page_live, "whole", counted)
        monkeypatch.setattr(page_live, "encoded", counted_too)
        await asyncio.gather(*(five_of(each) for each in tabs))
    assert 4 <= len(built) <= 10
    assert len(encoded) <= len(built)


@pytest.mark.parametrize("looks", [True, False])
async def test_nothing_is_built_for_nobody(monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
    """While no tab is open nothing of the grid is looked at. The control: while one is."""
    monkeypatch.setattr(page_live, "BEAT_S", 0.0)

    class Follower:
        looked, silent_ms, heard_ms_ago = 0, 0, 0

        @property
        def grid(self) -> Grid:
            Follower.looked += 1
            return Grid()

    follower: Any = Follower()
    live = page_live.Live(follower, RecentListener())
    if looks:
        live._opened.set()
    task = asyncio.create_task(live.run())
    for _ in range(50):
        await asyncio.wait({task}, timeout=0)
    await stop([task])
    assert bool(Follower.looked) is looks


async def test_a_view_that_fails_ends_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged without a word of what is shown; requests are answered, and the next view comes."""

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("brain/q1")

    async with tab(stage.url) as opened:
        await opened.next()
        monkeypatch.setattr(page_live, "whole", failing)
        await eventually(
            lambda: "the page's view failed: RuntimeError in failing" in caplog.text, "it failed"
        )
        assert (await stage.post("/api/generate", ASKED)).status == 200
        monkeypatch.undo()
        await opened.next()
    assert "brain/q1" not in caplog.text


async def test_a_gateway_that_stops_does_not_wait_for_its_tabs(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end before its patience does."""
    monkeypatch.setattr(gateway_server, "STOP_S", 2 * WAIT_S)
    async with gateway(valkey_url, prefix, tmp_path) as stage, tab(stage.url) as opened:
        await opened.next()
        async with asyncio.timeout(WAIT_S):
            await stage.stop()


async def test_a_gateway_that_is_told_to_stop_again_and_again_leaves_nothing(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """Each end is brought about, however often another is cut short: the worker for the past ends."""
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        before = set(psutil.Process().children())
        await got(stage.url, "/orion/v1/timeline")
        [worker] = set(psutil.Process().children()) - before
        while not stage.task.done():
            stage.task.cancel()
            await asyncio.wait({stage.task}, timeout=0)
        await eventually(lambda: not worker.is_running(), "it has ended")


async def test_events_since_the_beginning_are_told(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """What was decided before the gateway came is on its page all the same."""
    async with running(valkey_url, prefix, clients=("gateway", "brain")) as grid:
        async with AsyncClient(valkey_url, prefix=prefix) as client:
            await client.generate(MODEL, "Why?", id="early")
        async with serving(grid, tmp_path) as stage, tab(stage.url) as opened:
            told = await opened.until(lambda view: view["decisions"])
    assert "for brain" in told.view["decisions"][-1]["text"]
