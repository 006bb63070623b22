"""Measure a machine: temperature, memory, processor. A missing sensor gives None, never a guess."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx
import msgspec
import psutil

from orion_streams.agents import thermal
from orion_streams.model.measured import Sample

log = logging.getLogger("orion.agent")

MB = 1024 * 1024
VCGENCMD_S, BITS_MAX = 1.0, 2**32 - 1
SELDOM = 5
"""Expensive measurements (the list of processes, vcgencmd) are taken with one sample in so many."""


class Sensors(Protocol):
    """The source of an agent's samples."""

    sensor: str
    """Which sensor the temperature comes from, and why; or why there is none."""

    async def sample(self) -> Sample: ...

    def look_again(self) -> None:
        """Remember nothing for the next sample: other models are in memory now."""

    async def close(self) -> None: ...


class LocalSensors:
    """The machine of this process, by psutil, /sys thermal zones and, on a Pi, vcgencmd."""

    def __init__(self, folder: Path = thermal.THERMAL) -> None:
        self._folder, self._there = folder, list[Path]()
        self._zones: tuple[thermal.Zone, ...] = ()
        self._vcgencmd = shutil.which("vcgencmd")
        self._ollama: list[psutil.Process] = []
        self._throttled = self._looks = 0
        self.sensor = ""
        psutil.cpu_percent()  # the first call only sets the point to compare with

    async def sample(self) -> Sample:
        memory = psutil.virtual_memory()
        if self._looks % SELDOM == 0:
            self._find_zones()
            self._ollama = ollama_processes()
            self._throttled = await throttled(self._vcgencmd) if self._vcgencmd else 0
        self._looks += 1
        used = memory.total - memory.available + mapped(self._ollama)
        return Sample(
            temp_mc=self._temperature(),
            ram_used_mb=min(used, memory.total) // MB,
            ram_total_mb=max(memory.total // MB, 1),
            cpu_permille=min(round(psutil.cpu_percent() * 10), 1000),
            throttled=self._throttled,
        )

    def look_again(self) -> None:
        self._looks = 0

    async def close(self) -> None:
        """Do nothing: no connection is open."""

    def _find_zones(self) -> None:
        """Look for the processor's zones anew when others are there: a driver may come after this agent."""
        there = sorted(self._folder.glob("thermal_zone*"))
        if there != self._there:
            self._there, self._zones = there, thermal.processor_zones(self._folder)

    def _temperature(self) -> int | None:
        """Return the temperature; None without a sensor that can be believed. Say once what is wrong."""
        found = thermal.read(self._zones)
        if found.temp_mc is None and found.what != self.sensor:
            log.warning("this node's temperature is not known: %s", found.what)
        self.sensor = found.what
        return found.temp_mc


class SimulatedSensors:
    """The machine that a simulated node stands for."""

    def __init__(self, url: str) -> None:
        self.sensor = "simulated"
        self._http = httpx.AsyncClient(base_url=url, timeout=2, trust_env=False)

    async def sample(self) -> Sample:
        """Return the node's sample. Raise httpx.HTTPError while the simulated node is away."""
        answer = await self._http.get("/sim/sensors")
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=Sample)

    def look_again(self) -> None:
        """Do nothing: no sample depends on the one before."""

    async def close(self) -> None:
        await self._http.aclose()


def ollama_processes() -> list[psutil.Process]:
    """Return the processes of Ollama: its server, and one for each model in memory."""
    return [each for each in psutil.process_iter(["name"]) if "ollama" in (each.info["name"] or "")]


def mapped(processes: Iterable[psutil.Process]) -> int:
    """Return the bytes of model files that these processes have mapped. The kernel counts these pages as
    available, but a model in use needs them. They grow while it loads, though Ollama lists it at once."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):  # the process has ended
            total += getattr(process.memory_info(), "shared", 0)
    return total


async def throttled(vcgencmd: str) -> int:
    """Return the bits of `vcgencmd get_throttled`; 0 if it does not answer."""
    try:
        process = await asyncio.create_subprocess_exec(
            vcgencmd, "get_throttled", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return 0
    try:
        async with asyncio.timeout(VCGENCMD_S):
            out, _ = await process.communicate()
        bits = int(out.partition(b"=")[2], 16)
        return bits if 0 <= bits <= BITS_MAX else 0
    except (TimeoutError, ValueError):
        return 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
