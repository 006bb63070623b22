"""Redis Streams for Faust: an app without Kafka, and a channel over a stream.

Faust's own transports are Kafka only. A `StreamChannel` is an ordinary `faust.Channel`: send is XADD, and
a `Feeder` service reads a consumer group into it, so plain `@app.agent` functions consume a stream. Items
carry their own `ack()`: Faust would acknowledge also what a handler failed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, cast

import faust
from faust.app.base import BootStrategy
from mode import Service
from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orion_streams.commits import GROUP
from orion_streams.errors import OrionError

log = logging.getLogger("orion.channels")

BACK_OFF_MAX_S = 2.0


class NoKafka(BootStrategy):
    """Boots agents, timers and services, and nothing that talks to a broker."""

    enable_kafka = False
    enable_web = False
    enable_sensors = False


class App(faust.App):
    """A Faust app that lives on Redis Streams."""

    BootStrategy = NoKafka

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, web_enabled=False, topic_disable_leader=True, **options)
        self.fatal: OrionError | None = None
        self.closers: list[Callable[[], Awaitable[None]]] = []

    async def on_start(self) -> None:
        """Without Kafka's consumer nobody else opens the flow control, and channels would hang."""
        await super().on_start()
        self.flow_control.resume()

    async def on_stop(self) -> None:
        """Close what the role has opened, in order."""
        for close in self.closers:
            await close()
        await super().on_stop()


class Item(Struct, frozen=True):
    """An entry of a consumer group. Whoever has done its work awaits `ack()`."""

    id: str
    fields: dict[bytes, bytes]
    ack: Callable[[], Awaitable[None]]


class StreamChannel(faust.Channel[Any]):
    """A Faust channel over one Redis stream and, for reading, its consumer group of one."""

    def __init__(
        self, app: App, *, redis: Any, key: str, keep_entries: int | None = None, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self.redis, self.key_name, self.keep_entries = redis, key, keep_entries

    def _clone_args(self) -> Mapping[str, Any]:
        own = {"redis": self.redis, "key": self.key_name, "keep_entries": self.keep_entries}
        return {**super()._clone_args(), **own}

    async def send(self, *, value: Any = None, **_: Any) -> Any:
        """XADD the fields of `value`, keeping about `keep_entries`. The entry's id."""
        return await self.redis.xadd(self.key_name, value, maxlen=self.keep_entries, approximate=True)

    def item(self, entry_id: bytes, fields: dict[bytes, bytes]) -> Item:
        """An entry with its acknowledgement."""

        async def ack() -> None:
            await self.redis.xack(self.key_name, GROUP, entry_id)

        return Item(entry_id.decode(), fields, ack)

    async def read(self, after: str, count: int, block_ms: int | None) -> list[Item]:
        """Entries of the group: after ">" the new ones, after "0" those not acknowledged yet."""
        answer = await self.redis.xreadgroup(
            GROUP, GROUP, {self.key_name: after}, count=count, block=block_ms
        )
        rows = answer[0][1] if answer else []
        return [self.item(entry_id, fields or {}) for entry_id, fields in rows]


class Feeder(Service):
    """Reads a channel's stream into the channel, for as long as the app runs.

    `catch_up(first)` is awaited at the start and again after every cut, before anything new is read;
    `noticed` is called with each new item the moment it is read.
    """

    COUNT: ClassVar[int] = 64

    def __init__(
        self,
        channel: StreamChannel,
        block_ms: int,
        catch_up: Callable[[bool], Awaitable[None]],
        noticed: Callable[[Item], None],
    ) -> None:
        super().__init__()
        self.channel, self.block_ms = channel, block_ms
        self.catch_up, self.noticed = catch_up, noticed

    @Service.task
    async def _feed(self) -> None:
        first, behind, back_off_s = True, True, 0.1
        while not self.should_stop:
            if not self.channel.subscriber_count:
                await self.sleep(0.01)  # nobody listens yet: a put would be dropped
                continue
            try:
                if behind:
                    await self.catch_up(first)
                    first = behind = False
                for item in await self.channel.read(">", self.COUNT, self.block_ms):
                    self.noticed(item)
                    await self.channel.put(cast(Any, item))
                back_off_s = 0.1
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                log.info("waiting for the router to make the stream %s", self.channel.key_name)
                await self.sleep(back_off_s)
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                log.warning("redis is away (%s): waiting", type(error).__name__)
                behind = True
                await self.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)


async def supervised(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat a unit of work for ever; while Redis is away, wait with a growing pause."""
    back_off_s = 0.1
    while True:
        try:
            await work()
            back_off_s = 0.1
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            log.warning("%s: redis is away (%s: %s): waiting", name, type(error).__name__, error)
            await asyncio.sleep(back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)
