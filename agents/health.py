"""A node's health: complete entries, so that a lost one heals with the next."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

import httpx
import msgspec
from redis.exceptions import RedisError

from orion_streams.agents.backend import Backend
from orion_streams.agents.results import ResultWriter
from orion_streams.agents.sensors import Sensors
from orion_streams.agents.worker_core import WorkerCore
from orion_streams.protocol import agent_entries
from orion_streams.protocol.ingest import inventory_digest
from orion_streams.runtime.faust_redis import StreamChannel

log = logging.getLogger("orion.agent")

FULL_LIST_EVERY_S = 60.0
PATIENCE_S = 1.0


class Residency:
    """What Ollama has on disk and in memory, looked at now and then; unknown while it does not answer."""

    def __init__(self, backend: Backend, inventory_ms: int) -> None:
        self._backend, self._pause_s = backend, inventory_ms / 1000
        self._looked_s = self._told_s = float("-inf")
        self._told = ""
        self._silent = False
        self._looking: asyncio.Task[None] | None = None
        self.installed: tuple[agent_entries.InstalledModel, ...] | None = None
        self.resident: tuple[agent_entries.ResidentModel, ...] = ()

    async def look(self, now_s: float) -> None:
        """Ask Ollama; memory each time, the disk every `inventory_ms`. One that hangs is not waited for:
        the node's health must not grow stale with it."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(now_s))
        await asyncio.wait({self._looking}, timeout=PATIENCE_S)
        if self._looking.done():
            looked, self._looking = self._looking, None
            looked.result()

    async def _look(self, now_s: float) -> None:
        try:
            resident = await self._backend.resident()
            if self.installed is None or now_s - self._looked_s >= self._pause_s:
                self.installed = await self._backend.installed()
                self._looked_s = now_s
            self.resident, self._silent = resident, False
        except (httpx.HTTPError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            if not self._silent:
                what = str(error) or type(error).__name__
                log.warning("Ollama does not answer (%s): its models are unknown", what)
            self.installed, self.resident, self._silent = None, (), True

    def tell_anew(self) -> None:
        """The next entry holds the whole list: the last one may be lost."""
        self._told = ""

    async def close(self) -> None:
        """Look no further."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    def to_tell(self, now_s: float) -> tuple[str, tuple[agent_entries.InstalledModel, ...] | None]:
        """The inventory's digest, and the list itself on change and every minute."""
        if self.installed is None:
            self._told = ""
            return "", None
        digest = inventory_digest(self.installed)
        if digest == self._told and now_s - self._told_s < FULL_LIST_EVERY_S:
            return digest, None
        self._told, self._told_s = digest, now_s
        return digest, self.installed


class Health:
    """Writes the health entries of one node. A new boot id each start shows a second agent."""

    def __init__(
        self,
        channel: StreamChannel,
        sensors: Sensors,
        residency: Residency | None,
        core: WorkerCore | None,
        results: ResultWriter | None,
    ) -> None:
        self._channel = channel
        self._sensors, self._residency = sensors, residency
        self._core, self._results = core, results
        self._boot = secrets.token_hex(4)
        self._there: frozenset[agent_entries.ResidentModel] = frozenset()

    async def beat(self) -> None:
        """Take a sample and write it. What was read and written is noted before it is sampled, so that
        nothing newer is claimed. Raises RedisError; no sensors, no entry: the node goes stale."""
        core, results = self._core, self._results
        work_read = core.work_read if core else ""
        results_written = results.last_id if results else ""
        now_s = time.monotonic()
        try:
            sample = await self._sensors.sample()
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            what = str(error) or type(error).__name__
            log.warning("the simulated machine does not answer: %s", what)
            return
        digest, inventory = "", None
        resident: tuple[agent_entries.ResidentModel, ...] = ()
        if self._residency is not None:
            await self._residency.look(now_s)
            self._compare(self._residency.resident)
            digest, inventory = self._residency.to_tell(now_s)
            broken = core.broken if core else set()
            resident = tuple(row for row in self._residency.resident if row.name not in broken)
        head = agent_entries.HealthHead(
            boot=self._boot,
            sampled_ms=int(now_s * 1000),
            **sample.fields(),
            resident=resident,
            inventory_digest=digest,
            inventory=inventory,
            in_hand=core.in_hand if core else (),
            work_read=work_read,
            results_written=results_written,
        )
        try:
            await self._channel.send(value={"head": agent_entries.encode_head(head)})
        except (RedisError, OSError):
            if self._residency is not None:
                self._residency.tell_anew()
            raise

    def _compare(self, resident: tuple[agent_entries.ResidentModel, ...]) -> None:
        """A model that came or went takes or leaves memory that the next sample must show."""
        there = frozenset(resident)
        if there != self._there:
            self._there = there
            self._sensors.look_again()
