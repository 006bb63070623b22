"""A node's health: complete entries, so that a lost one heals with the next."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

import httpx
import msgspec
from redis.exceptions import RedisError

from orion_streams.agents.backend import Backend, Listing, RunFailedError
from orion_streams.agents.results import ResultWriter
from orion_streams.agents.sensors import Sensors
from orion_streams.agents.worker_core import WorkerCore
from orion_streams.protocol import agent_entries
from orion_streams.protocol.node_health import inventory_digest
from orion_streams.runtime.faust_redis import StreamChannel

log = logging.getLogger("orion.agent")

FULL_LIST_EVERY_S = 60.0
ASKED_AT_ONCE = 4
"""So many models are asked about in one look."""
PATIENCE_S = 1.0


class InventoryNews:
    """Tells which models are installed: all of them on change and every minute, else their digest."""

    def __init__(self) -> None:
        self._told, self._told_s = "", float("-inf")

    def tell_anew(self) -> None:
        """List all models in the next entry: the last list may be lost."""
        self._told = ""

    def to_tell(
        self, installed: Listing[agent_entries.InstalledModel] | None, now_s: float
    ) -> tuple[str, tuple[agent_entries.InstalledModel, ...] | None]:
        """Return the list's digest, and the list itself if it is due; neither while it is not known."""
        if installed is None:
            self._told = ""
            return "", None
        digest = inventory_digest(installed.models)
        if digest == self._told and now_s - self._told_s < FULL_LIST_EVERY_S:
            return digest, None
        self._told, self._told_s = digest, now_s
        return digest, installed.models


class LabelNews:
    """Tells a label on change and every minute, else nothing; a change is logged."""

    def __init__(self, what: str) -> None:
        self._what, self._told, self._told_s = what, "", float("-inf")

    def tell_anew(self) -> None:
        """Tell it in the next entry: the last one may be lost."""
        self._told = ""

    def to_tell(self, label: str, now_s: float) -> str:
        """Return the label if it is due."""
        if label == self._told and now_s - self._told_s < FULL_LIST_EVERY_S:
            return ""
        if label != self._told:
            log.info("%s: %s", self._what, label)
        self._told, self._told_s = label, now_s
        return label[: agent_entries.WORD_MAX]


class Residency:
    """Looks now and then what Ollama has on disk and in memory; unknown while it does not answer."""

    def __init__(self, backend: Backend, inventory_ms: int) -> None:
        self._backend, self._pause_s = backend, inventory_ms / 1000
        self._looked_s, self._has_changed = float("-inf"), False
        self._answers: bool | None = None
        self._said: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        self.news = InventoryNews()
        self._described: dict[str, agent_entries.ModelDescription] = {}
        self._ask_again_s: dict[str, float] = {}
        self._to_tell: dict[str, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self.engine = ""
        """What runs the models; empty until it was asked."""
        self.installed: Listing[agent_entries.InstalledModel] | None = None
        self.resident: Listing[agent_entries.ResidentModel] = Listing()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why rows of both lists were left out, a sentence each."""
        return (*(self.installed.left_out if self.installed else ()), *self.resident.left_out)

    @property
    def remote(self) -> tuple[str, ...]:
        """The models that run elsewhere."""
        return self.installed.remote if self.installed else ()

    def look_again(self) -> None:
        """Look at the disk with the next entry: it has changed."""
        self._has_changed = True

    def tell_all(self) -> None:
        """Tell again what every installed model is: the log may not have it."""
        installed = self.installed.models if self.installed else ()
        self._to_tell |= dict.fromkeys(row.digest for row in installed if row.digest in self._described)

    def descriptions(self) -> tuple[agent_entries.ModelDescription, ...]:
        """Return what has to be told next of models, a few at a time."""
        digests = list(self._to_tell)[: agent_entries.DESCRIBED_MAX]
        for digest in digests:
            del self._to_tell[digest]
        return tuple(self._described[digest] for digest in digests if digest in self._described)

    async def look(self, now_s: float) -> None:
        """Ask Ollama for what is in memory, and every `inventory_ms` for its version and what is on disk.
        Wait PATIENCE_S at most: the node's health must not grow stale with an Ollama that hangs."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(now_s))
        await asyncio.wait({self._looking}, timeout=PATIENCE_S)
        if self._looking.done():
            looked, self._looking = self._looking, None
            looked.result()

    async def _look(self, now_s: float) -> None:
        try:
            resident = await self._backend.resident()
            is_due = now_s - self._looked_s >= self._pause_s
            if self.installed is None or is_due or self._has_changed:
                self._has_changed = False
                await self._identify()
                self.installed = await self._backend.installed()
                self._looked_s = now_s
            if not self._answers:
                log.info("Ollama at %s answers: %d models", self._backend.where, len(self.installed.models))
            self.resident, self._answers = resident, True
            self._say_odd()
            await self._describe(self.installed.models, now_s)
        except (httpx.HTTPError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            if self._answers is not False:
                what = str(error) or type(error).__name__
                where = self._backend.where
                log.warning("Ollama at %s does not answer (%s): its models are unknown", where, what)
            self.installed, self.resident, self._answers = None, Listing(), False

    async def _identify(self) -> None:
        """Ask what runs the models; say nothing of what may not run any."""
        try:
            await self._backend.identify()
        except RunFailedError as error:
            log.info("what runs the models cannot be told: %s", error)
        else:
            self.engine = self._backend.engine

    async def _describe(self, models: tuple[agent_entries.InstalledModel, ...], now_s: float) -> None:
        """Ask what models are, each digest once and a few at a time; of one that cannot be told again after
        a minute. Forget those that are gone."""
        there = {row.digest for row in models}
        self._described = {key: row for key, row in self._described.items() if key in there}
        self._ask_again_s = {key: again_s for key, again_s in self._ask_again_s.items() if key in there}
        unknown = [
            row
            for row in models
            if row.digest not in self._described and self._ask_again_s.get(row.digest, now_s) <= now_s
        ]
        for row in unknown[:ASKED_AT_ONCE]:
            self._ask_again_s[row.digest] = now_s + FULL_LIST_EVERY_S
            try:
                self._described[row.digest] = await self._backend.described(row)
            except (httpx.HTTPError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                log.info("what %s is cannot be told: %s", row.name, error or type(error).__name__)
                return  # one that hangs must not hold up the look for more than its own time
            else:
                self._to_tell[row.digest] = None

    def _say_odd(self) -> None:
        """Log what the lists leave out, once until it changes."""
        if (odd := (self.left_out, self.remote)) != self._said:
            self._said = odd
            for why in self.left_out[: agent_entries.NAMED_MAX]:
                log.warning("a row of Ollama's lists is left out: %s", why)
            if self.remote:
                log.warning("these models run elsewhere and are never asked: %s", ", ".join(self.remote))

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})


class Health:
    """Writes the health entries of one node, with a new boot id each start, which shows a second agent."""

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
        self._sensor, self._engine = LabelNews("temperature"), LabelNews("what runs the models")
        self._there: frozenset[agent_entries.ResidentModel] = frozenset()
        self._beating, self._is_over = asyncio.Lock(), False

    async def beat(self, goodbye: bool = False) -> None:
        """Take a sample and write it; without sensors write nothing, so that the node goes stale.
        `goodbye`: nothing is read any more, and this entry is the last. Raises RedisError and OSError."""
        async with self._beating:
            if not self._is_over:
                self._is_over = goodbye
                await self._beat(goodbye)

    async def _beat(self, goodbye: bool) -> None:
        """Note what was read and written before the sample is taken, so that nothing newer is claimed."""
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
        left_out: tuple[str, ...] = ()
        remote: tuple[str, ...] = ()
        described: tuple[agent_entries.ModelDescription, ...] = ()
        if self._residency is not None:
            await self._residency.look(now_s)
            resident = self._residency.resident.models
            self._compare(resident)
            digest, inventory = self._residency.news.to_tell(self._residency.installed, now_s)
            if inventory is not None:
                self._residency.tell_all()
            described = self._residency.descriptions()
            left_out, remote = self._residency.left_out, self._residency.remote
        head = agent_entries.HealthHead(
            boot=self._boot,
            sampled_ms=int(now_s * 1000),
            **sample.fields(),
            resident=core.working(resident) if core else resident,
            inventory_digest=digest,
            inventory=inventory,
            in_hand=core.in_hand if core else (),
            work_read=work_read,
            results_written=results_written,
            left_out=len(left_out),
            left_out_why=left_out[0][: agent_entries.WORD_MAX] if left_out else "",
            remote=remote[: agent_entries.NAMED_MAX],
            sensor=self._sensor.to_tell(self._sensors.sensor, now_s),
            engine=self._engine.to_tell(self._residency.engine, now_s) if self._residency else "",
            described=described,
            leaving=goodbye or (core is not None and core.leaving),
            goodbye=goodbye,
        )
        try:
            await self._channel.send(value={"head": agent_entries.encode_head(head)})
        except (RedisError, OSError):
            self._sensor.tell_anew()
            self._engine.tell_anew()
            if self._residency is not None:
                self._residency.news.tell_anew()
            raise

    def _compare(self, resident: tuple[agent_entries.ResidentModel, ...]) -> None:
        """Let the sensors look again when a model came or went: the next sample must show its memory."""
        there = frozenset(resident)
        if there != self._there:
            self._there = there
            self._sensors.look_again()
