"""What a machine says of itself: temperature, memory, processor. A missing sensor is None, no guess."""

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

from orion_streams.model.sample import Sample

log = logging.getLogger("orion.agent")

THERMAL = Path("/sys/class/thermal")
CPU_ZONES = ("cpu-thermal", "cpu_thermal", "x86_pkg_temp", "coretemp", "acpitz")
MB = 1024 * 1024
POSSIBLE_MC = (-60_000, 200_000)
VCGENCMD_S = 1.0
SELDOM = 5
"""What is dear to ask (which processes there are, vcgencmd) is asked at every so many looks."""


class Sensors(Protocol):
    """Where an agent's samples come from."""

    async def sample(self) -> Sample: ...

    def look_again(self) -> None:
        """Other models are in memory than before: nothing that was remembered goes into the next sample."""
        ...

    async def close(self) -> None: ...


class Machine:
    """The machine this process runs on: psutil, /sys thermal zones and, on a Pi, vcgencmd."""

    def __init__(self, thermal: Path = THERMAL) -> None:
        self._zone = cpu_zone(thermal)
        self._vcgencmd = shutil.which("vcgencmd")
        self._ollama: list[psutil.Process] = []
        self._throttled = self._looks = 0
        self._readable = True
        psutil.cpu_percent()  # the first call has nothing to compare with
        if self._zone is None:
            log.warning("no CPU thermal zone under %s: this node's temperature is not known", thermal)

    async def sample(self) -> Sample:
        memory = psutil.virtual_memory()
        if self._looks % SELDOM == 0:
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
        """Nothing is open."""

    def _temperature(self) -> int | None:
        """None without a sensor; a sensor that fails is said once, until it works again."""
        if self._zone is None:
            return None
        temp_mc = read_temperature(self._zone)
        if temp_mc is None and self._readable:
            log.warning("%s has no temperature: this node's is not known", self._zone)
        self._readable = temp_mc is not None
        return temp_mc


class SimulatedMachine:
    """The machine that a simulated node pretends to be."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=2, trust_env=False)

    async def sample(self) -> Sample:
        """Raises httpx.HTTPError while the simulated node is away."""
        answer = await self._http.get("/sim/sensors")
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=Sample)

    def look_again(self) -> None:
        """Nothing is remembered."""

    async def close(self) -> None:
        await self._http.aclose()


def cpu_zone(thermal: Path) -> Path | None:
    """The `temp` file of the processor's thermal zone, by the zone's type."""
    types: dict[str, Path] = {}
    for zone in sorted(thermal.glob("thermal_zone*")):
        try:
            types.setdefault((zone / "type").read_text().strip(), zone / "temp")
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", zone, error)
    return next((types[name] for name in CPU_ZONES if name in types), None)


def read_temperature(zone: Path) -> int | None:
    """Milli-degrees Celsius; None where it cannot be read or no processor could have it."""
    try:
        temp_mc = int(zone.read_text())
    except (OSError, ValueError):
        return None
    return temp_mc if POSSIBLE_MC[0] <= temp_mc <= POSSIBLE_MC[1] else None


def ollama_processes() -> list[psutil.Process]:
    """Ollama's server, and a process for each of its models."""
    return [each for each in psutil.process_iter(["name"]) if "ollama" in (each.info["name"] or "")]


def mapped(processes: Iterable[psutil.Process]) -> int:
    """Bytes of model files that these processes have mapped. The kernel counts such pages as free cache,
    but a model that is used needs them. They grow while it loads, and Ollama lists it from the start."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):  # it has ended meanwhile
            total += getattr(process.memory_info(), "shared", 0)
    return total


async def throttled(vcgencmd: str) -> int:
    """The bits of `vcgencmd get_throttled`; 0 when it does not answer."""
    try:
        process = await asyncio.create_subprocess_exec(
            vcgencmd, "get_throttled", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return 0
    try:
        async with asyncio.timeout(VCGENCMD_S):
            out, _ = await process.communicate()
        return max(int(out.partition(b"=")[2], 16), 0)
    except (TimeoutError, ValueError):
        return 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
