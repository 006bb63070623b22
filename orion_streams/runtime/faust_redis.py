"""Redis Streams for Faust: an app without Kafka, and a channel over a stream.

Faust's own transport is Kafka. A `StreamChannel` is an ordinary `faust.Channel`: `send` is XADD, and a
`Feeder` reads a consumer group into it, so that plain `@app.agent` functions consume a stream. An item's
consumer settles it explicitly, since Faust would also acknowledge items whose handler failed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, cast

import faust
from faust.app.base import BootStrategy
from mode import Service
from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from orion_streams.errors import OrionError
from orion_streams.model.commit import GROUP
from orion_streams.runtime.backoff import OutageLog, reconnect_backoff
from orion_streams.runtime.connection import (
    as_dict,
    ask,
    away,
    end_if_cancelled,
    in_short,
    refused,
    will_pass,
)
from orion_streams.runtime.read_size import ReadSize, size_of
from orion_streams.runtime.service_notify import ServiceManager

log = logging.getLogger("orion.channels")

STEADY_S = 10.0
"""After work that ran for longer, the pauses between tries begin anew."""


class NoKafka(BootStrategy):
    """Boot agents, timers and services, but nothing that talks to a broker."""

    enable_kafka = False
    enable_web = False
    enable_sensors = False


class NoConsumer:
    """The parts of Kafka's consumer that Faust reads; the real one brings a client, a thread and a loop."""

    def __init__(self) -> None:
        self.unacked: set[Any] = set()
        self._unacked_messages = self.unacked

    def assignment(self) -> tuple[()]:
        """Return no partitions."""
        return ()


class App(faust.App):
    """A Faust app on Redis Streams. `leave`, if there is one, is awaited at SIGTERM before anything stops;
    `closers` in order after everything else has stopped."""

    BootStrategy = NoKafka
    mundane_level = "debug"  # mode logs "Starting..." for each service

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, web_enabled=False, topic_disable_leader=True, **options)
        self.fatal: OrionError | None = None
        self.manager = ServiceManager()
        self.outages = OutageLog(log, hear=self.manager.ready)
        self.leave: Callable[[], Awaitable[None]] | None = None
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.stopper: Callable[[], None] = lambda: signal.raise_signal(signal.SIGTERM)

    def end(self, error: OrionError) -> None:
        """End the process with one line and an exit code, for an error that waiting cannot mend."""
        if self.fatal is None:
            self.fatal = error
            log.critical("%s", error)
            self.stopper()

    async def on_first_start(self) -> None:
        """Do not create Faust's folders for tables in the working directory."""

    async def on_start(self) -> None:
        """Open the flow control, as Kafka's consumer would: channels wait for it."""
        self.finalize()
        self.flow_control.resume()
        self.add_future(self.manager.feed())

    def _new_consumer(self) -> Any:
        return NoConsumer()

    async def on_shutdown(self) -> None:
        """Close what the role has opened, in order."""
        await super().on_shutdown()
        for close in self.closers:
            await close()


class Item(Struct, frozen=True):
    """An entry of a consumer group; its consumer settles it once its work is done."""

    id: str
    fields: dict[bytes, bytes]


class StreamChannel(faust.Channel[Any]):
    """A Faust channel over one Redis stream, read through a consumer group with one consumer."""

    def __init__(
        self, app: App, *, redis: Any, key: str, keep_entries: int | None = None, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self.redis, self.key_name, self.keep_entries = redis, key, keep_entries
        self.settled: dict[bytes, None] = {}  # acknowledged with the next read

    def _clone_args(self) -> Mapping[str, Any]:
        own = {"redis": self.redis, "key": self.key_name, "keep_entries": self.keep_entries}
        return {**super()._clone_args(), **own}

    async def send(self, *, value: Any = None, **_: Any) -> Any:
        """Append `value`'s fields with XADD, keeping about `keep_entries`. Return the entry's id."""
        return await self.redis.xadd(self.key_name, value, maxlen=self.keep_entries, approximate=True)

    def settle(self, entry_id: str) -> None:
        """Acknowledge an entry with the next read, to save a round trip."""
        self.settled[entry_id.encode()] = None

    async def read(self, after: str, count: int, block_ms: int | None) -> list[Item]:
        """Read the group's entries: new ones after ">", those not yet acknowledged after "0"."""
        wait = () if block_ms is None else ("BLOCK", block_ms)
        commands: list[tuple[Any, ...]] = [
            ("XREADGROUP", "GROUP", GROUP, GROUP, "COUNT", count, *wait, "STREAMS", self.key_name, after)
        ]
        settled = list(self.settled)
        if settled:
            commands.insert(0, ("XACK", self.key_name, GROUP, *settled))
        answers = await ask(self.redis, *commands)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        self._forget(settled)
        rows = answers[-1][0][1] if answers[-1] else []
        return [Item(entry_id.decode(), as_dict(parts)) for entry_id, parts in rows]

    async def read_all(self, after: str, most: int) -> list[Item]:
        """Read up to `most` entries as `read` does, in reads that are bounded in bytes."""
        found: list[Item] = []
        size, more = ReadSize(most), True
        while more and len(found) < most:
            count = min(size.count, most - len(found))
            items = await self.read(after, count, None)
            found += items
            size.saw(len(items), size_of(item.fields for item in items))
            more = len(items) == count
            after = after if after == ">" or not items else items[-1].id
        return found

    async def delivered(self) -> str:
        """Return the group's last delivered id: nothing up to it will be delivered as new."""
        groups = await self.redis.xinfo_groups(self.key_name)
        return next(
            (row["last-delivered-id"].decode() for row in groups if row["name"] == GROUP.encode()), ""
        )

    async def acknowledge(self) -> None:
        """Acknowledge settled items now, since no further read will."""
        if settled := list(self.settled):
            await self.redis.xack(self.key_name, GROUP, *settled)
            self._forget(settled)

    def _forget(self, settled: list[bytes]) -> None:
        for entry_id in settled:
            del self.settled[entry_id]


class Feeder(Service):
    """Read a channel's stream into the channel for as long as the app runs.

    `catch_up` is awaited at the start and after each outage, before anything new is read. `noticed` is
    called with every item of a read before the first of them is put into the channel. `drained` is called
    after an empty read, with the id up to which nothing new can come.
    """

    COUNT: ClassVar[int] = 64
    mundane_level = "debug"

    def __init__(
        self,
        channel: StreamChannel,
        block_ms: int,
        catch_up: Callable[[], Awaitable[None]],
        noticed: Callable[[Item], None],
        drained: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.channel, self.block_ms = channel, block_ms
        self.catch_up, self.noticed, self.drained = catch_up, noticed, drained
        self._behind = True
        self._size = ReadSize(self.COUNT)

    @Service.task
    async def _feed(self) -> None:
        app, backoff = cast(App, self.channel.app), reconnect_backoff()
        while not self.should_stop:
            if not self.channel.subscriber_count:
                await self.sleep(0.01)  # without a subscriber a put is dropped
                continue
            try:
                await self._pass_on()
                backoff.reset()
                app.outages.worked("work")
            except (RedisError, OSError) as error:
                if not self._waits_for(error, app.outages):
                    app.end(refused(self.channel.key_name, error))
                    return
                self._behind = True
                await self.sleep(backoff.compute(0))

    async def _pass_on(self) -> None:
        if self._behind:
            await self.catch_up()
            self._behind = False
        items = await self.channel.read(">", self._size.count, self.block_ms)
        self._size.saw(len(items), size_of(item.fields for item in items))
        if not items:
            self.drained(await self.channel.delivered())
        for item in items:
            self.noticed(item)
        for item in items:
            await self.channel.put(cast(Any, item))

    def _waits_for(self, error: Exception, outages: OutageLog) -> bool:
        """Log an error that may pass. Return whether it may."""
        words, key = in_short(error), self.channel.key_name
        if isinstance(error, ResponseError) and ("NOGROUP" in words or "no longer exists" in words):
            outages.failed("work", f"no stream {key}: waiting for the router to make it", f"stream {key}")
            return True
        if will_pass(error):
            outages.failed("work", away(error))
            return True
        return False


async def supervised(name: str, work: Callable[[], Awaitable[None]], outages: OutageLog) -> None:
    """Repeat a unit of work until cancelled, with growing pauses while Redis is away. Work that takes long
    reports to `outages` itself that Redis is back."""
    loop, backoff = asyncio.get_running_loop(), reconnect_backoff()
    while True:
        end_if_cancelled()
        began_s = loop.time()
        try:
            await work()
            backoff.reset()
            outages.worked(name)
        except (RedisError, OSError) as error:
            if not will_pass(error):
                raise
            if loop.time() - began_s > STEADY_S:
                backoff.reset()
            outages.failed(name, away(error))
            await asyncio.sleep(backoff.compute(0))
