"""Router and agent, real and inside this process, as mortals; Ollama and the machine are stand-ins.

The agent's parts are the product's, wired as in agents/apps.py, but without Faust around them: its timers
and services have hundreds of awaits of their own at which nothing of the grid happens. The backend is a
stand-in for the same reason: httpx and a server in one loop would be most of the points.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from orion_streams.agents import apps
from orion_streams.agents.backend import Chunk, Listing, PullStep, RunFailedError
from orion_streams.agents.health import Health, Residency
from orion_streams.agents.results import ResultWriter
from orion_streams.agents.router import Router
from orion_streams.agents.worker import Worker
from orion_streams.config import Config
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.measured import Sample, Usage
from orion_streams.protocol import agent_entries, requests_replies
from orion_streams.protocol.agent_entries import WorkHead
from orion_streams.runtime.backoff import OutageLog
from orion_streams.runtime.connection import connect, end_if_cancelled
from orion_streams.runtime.faust_redis import App, Feeder, StreamChannel, supervised
from tests.crash.mortal import Mortal
from tests.helpers import WAIT_S

NODE, MODEL = "n1", "gemma3:270m"
HEALTH_S, WORD_S = 0.01, 0.003
"""The timer of health, and how fast the stand-in for Ollama writes: it takes time, as a model does."""
WORDS = ("one", "two", "three")
ROW = agent_entries.InstalledModel(MODEL, "sha256:stand-in", 300)


class Ollama:
    """A backend whose every run answers differently, so that halves of two runs show. `failing`: how many
    first runs break; `first` is added to their numbers; `hold`: a run waits for it after two words;
    `shown`: the images of each run."""

    engine = where = "scripted"

    def __init__(self, failing: int = 0) -> None:
        self.runs, self.failing, self.first = 0, failing, 0
        self.shown: list[list[str]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def run(
        self, entry: requests_replies.RequestEntry, head: WorkHead
    ) -> AsyncGenerator[Chunk, None]:
        self.runs += 1
        mine = self.runs
        self.shown.append(requests_replies.images_of(entry))
        for number, word in enumerate(WORDS):
            yield Chunk(text=f"{word}-{self.first + mine} ")
            await asyncio.sleep(WORD_S)
            if number == 1:
                if mine <= self.failing:
                    raise RunFailedError("stream_cut", "node", "scripted", breaks_model=True)
                await self.hold.wait()
        yield Chunk(usage=Usage(len(WORDS), prompt_tokens=1, total_ms=10, done_reason="stop"))

    async def load(self, model: str, options: Mapping[str, int]) -> None:
        """Do nothing: it is always there."""

    async def unload(self, model: str) -> None:
        """Do nothing: it stays."""

    async def pull(self, model: str) -> AsyncGenerator[PullStep, None]:
        yield PullStep("success")

    async def remove(self, model: str) -> None:
        """Do nothing: it stays."""

    async def identify(self) -> None:
        """Do nothing: its name is known."""

    async def installed(self) -> Listing[agent_entries.InstalledModel]:
        return Listing((ROW,))

    async def resident(self) -> Listing[agent_entries.ResidentModel]:
        return Listing((agent_entries.ResidentModel(ROW.name, ROW.digest, ROW.size_mb, 4096),))

    async def described(self, model: agent_entries.InstalledModel) -> agent_entries.ModelDescription:
        return agent_entries.ModelDescription(model.name, model.digest)

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class Cool:
    """Sensors of a machine that is never hot."""

    sensor = "scripted"

    async def sample(self) -> Sample:
        return Sample(temp_mc=50_000, ram_used_mb=1000, ram_total_mb=8000, cpu_permille=100)

    def look_again(self) -> None:
        """Do nothing: nothing is remembered."""

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class Direct(StreamChannel):
    """The work channel; a handler takes each item without a Faust agent in between."""

    handler: Callable[[Any], Any]

    async def put(self, value: Any) -> None:
        await self.handler(value)


class Role(Mortal):
    """A process: its main tasks, and how it is told to end."""

    def __init__(self, url: str, at: int) -> None:
        super().__init__(at)
        self.url = url
        self.main: list[asyncio.Task[None]] = []

    def connect(self) -> Any:
        client = connect(self.url)
        self.clients.append(client)
        return client

    def end(self) -> None:
        """Cancel the main tasks, once each."""
        for task in self.main:
            task.cancel()

    async def ended(self) -> None:
        """Wait until the main tasks are over. AssertionError for one that goes on, or ended by an error."""
        _, going_on = await asyncio.wait(self.main, timeout=WAIT_S)
        assert not going_on, f"a cancel at point {self.at} was lost: {going_on}"
        for task in self.main:
            assert task.cancelled() or task.exception() is None, task


class RouterRole(Role):
    """The router's loop."""

    def __init__(self, url: str, config: Config, at: int = 0) -> None:
        super().__init__(url, at)
        self.store = RedisLog(self.connect(), config.prefix)
        self.router = Router(self.store, config)
        outages = OutageLog(logging.getLogger("orion.channels"))
        self.main = [self.start(supervised("router", lambda: apps.lead(self.router, config), outages))]

    async def ended(self) -> None:
        await super().ended()
        await self.router.retention.close()


class AgentRole(Role):
    """A node's agent: results, health and work."""

    def __init__(self, url: str, config: Config, app: App, ollama: Ollama, at: int = 0) -> None:
        super().__init__(url, at)
        redis, key = self.connect(), config.key
        self.results = ResultWriter(redis, key("results", NODE), config.retention.results_entries)
        channel = Direct(app, redis=self.connect(), key=key("work", NODE))
        self.worker = Worker(config, NODE, channel, self.results, ollama)
        channel.handler = self.worker.handle
        beats = StreamChannel(app, redis=redis, key=key("health", NODE), keep_entries=1000)
        self.residency = Residency(ollama, config.limits.inventory_ms)
        told = self._catch_up, self.worker.noticed, self.worker.core.drained
        self.feeder = Feeder(channel, config.redis.block_ms, *told)
        self.health = Health(beats, Cool(), self.residency, self.worker.core, self.results)
        self.main = [self.start(each) for each in (self.results.run(), self._beat(), self._feed())]

    async def _catch_up(self) -> None:
        self.residency.news.tell_anew()
        await self.worker.catch_up()

    async def _beat(self) -> None:
        while True:
            end_if_cancelled()
            with suppress(RedisError, OSError):  # as the timer of the app: the next one will do
                await self.health.beat()
            await asyncio.sleep(HEALTH_S)

    async def _feed(self) -> None:
        while True:
            end_if_cancelled()
            try:
                await self.feeder._pass_on()
            except (RedisError, OSError):
                self.feeder._behind = True
                await asyncio.sleep(HEALTH_S)

    def withdraw(self) -> None:
        """Cancel what runs as the router does: a cancel is read after its run has begun."""
        asyncio.get_running_loop().call_soon(self._withdraw)

    def _withdraw(self) -> None:
        for work_id in self.worker.core.in_hand:
            self.worker.perform(self.worker.core.cancel(work_id))

    async def ended(self) -> None:
        await super().ended()
        async with asyncio.timeout(WAIT_S):
            await self.residency.close()
            await self.worker.stop()
