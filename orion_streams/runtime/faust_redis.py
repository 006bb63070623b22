"""Redis Streams for Faust: an app without Kafka, and a channel over a stream.

Faust's own transports are Kafka only. A `StreamChannel` is an ordinary `faust.Channel`: send is XADD, and
a `Feeder` service reads a consumer group into it, so plain `@app.agent` functions consume a stream. Whoever
has done an item's work settles it: Faust would acknowledge also what a handler failed on.
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

from orion_streams.errors import ConfigError, OrionError
from orion_streams.model.commit import GROUP
from orion_streams.runtime.backoff import OutageLog, reconnect_backoff
from orion_streams.runtime.connection import as_dict, ask, end_if_cancelled, in_short, will_pass

log = logging.getLogger("orion.channels")

STEADY_S = 10.0
"""Work that went on for so long: after it the next pause is short again."""


def refused(key: str, error: Exception) -> ConfigError:
    """What Redis refuses for good, as the error that ends a process."""
    return ConfigError(f"{key}: Redis refuses: {in_short(error)}")


class NoKafka(BootStrategy):
    """Boots agents, timers and services, and nothing that talks to a broker."""

    enable_kafka = False
    enable_web = False
    enable_sensors = False


class NoConsumer:
    """What Faust looks at of Kafka's consumer, which would bring a client, a thread and a loop."""

    def __init__(self) -> None:
        self.unacked: set[Any] = set()
        self._unacked_messages = self.unacked

    def assignment(self) -> tuple[()]:
        """Nothing to stop."""
        return ()


class App(faust.App):
    """A Faust app that lives on Redis Streams. `closers` are awaited in order when all else has stopped."""

    BootStrategy = NoKafka
    mundane_level = "debug"  # mode says "Starting..." under each class's name

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, web_enabled=False, topic_disable_leader=True, **options)
        self.fatal: OrionError | None = None
        self.outages = OutageLog(log)
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.stopper: Callable[[], None] = lambda: signal.raise_signal(signal.SIGTERM)

    def end(self, error: OrionError) -> None:
        """Waiting cannot mend it: end the process with this one line and its exit code."""
        if self.fatal is None:
            self.fatal = error
            log.critical("%s", error)
            self.stopper()

    async def on_first_start(self) -> None:
        """Faust would make folders for tables, which nobody has, in the working directory."""

    async def on_start(self) -> None:
        """Without Kafka's consumer nobody else opens the flow control, and channels would hang."""
        self.finalize()
        self.flow_control.resume()

    def _new_consumer(self) -> Any:
        return NoConsumer()

    async def on_shutdown(self) -> None:
        """Close what the role has opened, in order: nobody uses it any more."""
        await super().on_shutdown()
        for close in self.closers:
            await close()


class Item(Struct, frozen=True):
    """An entry of a consumer group. Whoever has done its work settles it."""

    id: str
    fields: dict[bytes, bytes]


class StreamChannel(faust.Channel[Any]):
    """A Faust channel over one Redis stream and, for reading, its consumer group of one."""

    def __init__(
        self, app: App, *, redis: Any, key: str, keep_entries: int | None = None, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self.redis, self.key_name, self.keep_entries = redis, key, keep_entries
        self.settled: dict[bytes, None] = {}  # done, to be acknowledged with the next read

    def _clone_args(self) -> Mapping[str, Any]:
        own = {"redis": self.redis, "key": self.key_name, "keep_entries": self.keep_entries}
        return {**super()._clone_args(), **own}

    async def send(self, *, value: Any = None, **_: Any) -> Any:
        """XADD the fields of `value`, keeping about `keep_entries`. The entry's id."""
        return await self.redis.xadd(self.key_name, value, maxlen=self.keep_entries, approximate=True)

    def settle(self, entry_id: str) -> None:
        """Acknowledge an entry along with the next read: a round trip less."""
        self.settled[entry_id.encode()] = None

    async def read(self, after: str, count: int, block_ms: int | None) -> list[Item]:
        """Entries of the group: after ">" the new ones, after "0" those not acknowledged yet."""
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

    async def delivered(self) -> str:
        """How far the group has read, or was made to begin: nothing up to there is handed out any more."""
        groups = await self.redis.xinfo_groups(self.key_name)
        return next(
            (row["last-delivered-id"].decode() for row in groups if row["name"] == GROUP.encode()), ""
        )

    async def acknowledge(self) -> None:
        """What is settled, at once: nothing more will be read."""
        if settled := list(self.settled):
            await self.redis.xack(self.key_name, GROUP, *settled)
            self._forget(settled)

    def _forget(self, settled: list[bytes]) -> None:
        for entry_id in settled:
            del self.settled[entry_id]


class Feeder(Service):
    """Reads a channel's stream into the channel, for as long as the app runs.

    `catch_up` is awaited at the start and again after every cut, before anything new is read; `noticed` is
    called with each new item the moment it is read, with all that were read together before any goes on;
    `drained`, when nothing new comes, with the id up to which nothing ever will.
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

    @Service.task
    async def _feed(self) -> None:
        app, backoff = cast(App, self.channel.app), reconnect_backoff()
        while not self.should_stop:
            if not self.channel.subscriber_count:
                await self.sleep(0.01)  # nobody listens yet: a put would be dropped
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
        items = await self.channel.read(">", self.COUNT, self.block_ms)
        if not items:
            self.drained(await self.channel.delivered())
        for item in items:
            self.noticed(item)
        for item in items:
            await self.channel.put(cast(Any, item))

    def _waits_for(self, error: Exception, outages: OutageLog) -> bool:
        """Say why nothing comes; whether that may pass."""
        words, key = in_short(error), self.channel.key_name
        if isinstance(error, ResponseError) and ("NOGROUP" in words or "no longer exists" in words):
            outages.failed("work", f"no stream {key}: waiting for the router to make it", f"stream {key}")
            return True
        if will_pass(error):
            outages.failed("work", away(error))
            return True
        return False


def away(error: Exception) -> str:
    """What is said while Redis is away."""
    return f"redis is away ({type(error).__name__}: {in_short(error)}): waiting"


async def supervised(name: str, work: Callable[[], Awaitable[None]], outages: OutageLog) -> None:
    """Repeat a unit of work for ever; while Redis is away, wait with a growing pause. Work that goes on for
    long tells `outages` itself when Redis is back."""
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
