"""Faust on Redis Streams: plain `@app.agent` functions on a StreamChannel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, ResponseError

from orion_streams.model.commit import GROUP
from orion_streams.runtime.backoff import OutageLog
from orion_streams.runtime.connection import connect, in_short, refused, will_pass
from orion_streams.runtime.faust_redis import App, Feeder, Item, StreamChannel, supervised
from tests.helpers import WAIT_S, eventually

Handler = Callable[[Item], None]


class Stream:
    """A stream and its group."""

    def __init__(self, url: str, key: str) -> None:
        self.redis: Any = connect(url)
        self.url, self.key = url, key

    async def make(self) -> None:
        await self.redis.xgroup_create(self.key, GROUP, id="0", mkstream=True)

    async def add(self, count: int) -> list[str]:
        return [(await self.redis.xadd(self.key, {"n": n})).decode() for n in range(count)]

    async def pending(self) -> list[str]:
        rows = await self.redis.xpending_range(self.key, GROUP, "-", "+", 1000)
        return [row["message_id"].decode() for row in rows]

    async def settled(self, left: list[str]) -> None:
        """Wait until all was delivered and just these are pending."""

        async def holds() -> bool:
            [group] = await self.redis.xinfo_groups(self.key)
            return group["lag"] == 0 and await self.pending() == left

        await eventually(holds, f"just {left} pending")


@pytest.fixture
async def stream(valkey_url: str, prefix: str) -> AsyncIterator[Stream]:
    """An empty stream; its group is not made yet."""
    opened = Stream(valkey_url, f"{prefix}stream")
    yield opened
    await opened.redis.delete(opened.key)
    await opened.redis.aclose()


@asynccontextmanager
async def consuming(stream: Stream, handler: Handler) -> AsyncIterator[App]:
    """An app whose one agent hands every item to `handler`, and settles it after that."""
    redis: Any = connect(stream.url)
    app = App("test")
    app.stopper = lambda: None
    channel = StreamChannel(app, redis=redis, key=stream.key)

    @app.agent(channel)
    async def consume(items: Any) -> None:
        async for item in items:
            handler(item)
            channel.settle(item.id)

    async def nothing() -> None:
        """Nothing to catch up with."""

    @app.task  # type: ignore[untyped-decorator]
    async def feed() -> None:
        feeder = Feeder(channel, 50, nothing, lambda item: None, lambda work_id: None)
        await app.add_runtime_dependency(feeder)

    app.closers.append(redis.aclose)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def test_every_entry_comes_once_and_is_acknowledged(stream: Stream) -> None:
    """Waiting and new entries, each once and in order."""
    await stream.make()
    seen = []

    def handle(item: Item) -> None:
        seen.append(item.id)

    before = await stream.add(300)
    async with consuming(stream, handle):
        after = await stream.add(300)
        await stream.settled([])
    assert seen == before + after


async def test_an_exception_leaves_just_that_entry_pending(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler that fails on one entry gets the next ones; the one is neither acknowledged nor lost."""
    caplog.set_level(logging.CRITICAL)
    await stream.make()
    ids = await stream.add(20)
    seen = []

    def handle(item: Item) -> None:
        seen.append(item.id)
        if item.id == ids[7]:
            raise ValueError("bad entry")

    async with consuming(stream, handle):
        await stream.settled([ids[7]])
        more = await stream.add(1)
        await stream.settled([ids[7]])
    assert seen == ids + more


async def test_send_is_an_xadd(stream: Stream) -> None:
    """The entry's id comes back, and the stream is kept short."""
    channel = StreamChannel(App("test"), redis=stream.redis, key=stream.key, keep_entries=10)
    ids = [await channel.send(value={"n": n}) for n in range(500)]
    rows = await stream.redis.xrange(stream.key)
    assert rows[-1] == (ids[-1], {b"n": b"499"})
    assert len(rows) < 500


async def waits(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    """Wait for the line that says that the stream is not there."""
    line = f"no stream {stream.key}: waiting for the router"
    await eventually(lambda: line in caplog.text, "that it waits")


async def test_without_its_group_it_waits_for_the_router(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """No stream yet: that is said, and what comes once there is one is handled."""
    caplog.set_level(logging.INFO)
    async with consuming(stream, lambda item: None):
        await waits(stream, caplog)
        await stream.make()
        await stream.add(3)
        await stream.settled([])


async def test_a_stream_deleted_under_a_read_is_said(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """DEL under a blocked read: it is said, and the app goes on when the stream is back."""
    await stream.make()
    async with consuming(stream, lambda item: None) as app:
        await stream.add(1)
        await stream.settled([])
        await stream.redis.delete(stream.key)
        await waits(stream, caplog)
        await stream.make()
        await stream.add(3)
        await stream.settled([])
        assert app.fatal is None


async def test_supervised_work_is_repeated_while_redis_is_away() -> None:
    """What waiting may mend is repeated; what it cannot is raised, once."""
    failures: list[Exception] = [
        ConnectionResetError("cut"),
        ResponseError("MISCONF disk"),
        ResponseError("OOM"),
    ]

    async def work() -> None:
        raise failures.pop(0) if failures else ResponseError("WRONGTYPE key")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        async with asyncio.timeout(WAIT_S):
            await supervised("test", work, OutageLog(logging.getLogger("test")))
    assert failures == []


def test_errors_are_said_without_the_command() -> None:
    """redis-py quotes a pipeline's command in the error: nothing of it is passed on."""
    error = ResponseError("Command # 1 (XADD k * text secret) of pipeline caused error: MISCONF no disk")
    assert in_short(error) == "MISCONF no disk"
    assert will_pass(error)
    assert str(refused("k", error)) == "k: Redis refuses: MISCONF no disk"
    assert not will_pass(AuthenticationError("wrong"))
    assert in_short(ResponseError()) == "ResponseError"
