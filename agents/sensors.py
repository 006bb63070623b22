"""What a machine says of itself: temperature, memory, processor. A missing sensor is None, no guess."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Annotated, Protocol

import httpx
import msgspec
import psutil
from msgspec import Meta, Struct

log = logging.getLogger("orion.agent")

THERMAL = Path("/sys/class/thermal")
CPU_ZONES = ("cpu-thermal", "cpu_thermal", "x86_pkg_temp", "coretemp", "acpitz")
MB = 1024 * 1024
SELDOM = 5
"""What is dear to ask (processes, vcgencmd) is asked at every so many looks."""


class Sample(Struct, frozen=True):
    """One look at the machine. `throttled`: the bits of vcgencmd get_throttled."""

    temp_mc: int | None
    ram_used_mb: int
    ram_total_mb: Annotated[int, Meta(ge=1)]
    cpu_permille: int
    throttled: int = 0


class Sensors(Protocol):
    """Where an agent's samples come from."""

    async def sample(self) -> Sample: ...


class Machine:
    """The machine this process runs on: psutil, /sys thermal zones and, on a Pi, vcgencmd."""

    def __init__(self, thermal: Path = THERMAL) -> None:
        self._zone = cpu_zone(thermal)
        self._vcgencmd = shutil.which("vcgencmd")
        self._throttled = self._mapped = self._looks = 0
        psutil.cpu_percent()  # the first call has nothing to compare with
        if self._zone is None:
            log.warning("no CPU thermal zone under %s: this node's temperature is not known", thermal)

    async def sample(self) -> Sample:
        memory = psutil.virtual_memory()
        if self._looks % SELDOM == 0:
            self._mapped = mapped_by_ollama()
            self._throttled = await throttled(self._vcgencmd) if self._vcgencmd else 0
        self._looks += 1
        used = memory.total - memory.available + self._mapped
        return Sample(
            temp_mc=read_temperature(self._zone),
            ram_used_mb=min(used, memory.total) // MB,
            ram_total_mb=max(memory.total // MB, 1),
            cpu_permille=min(round(psutil.cpu_percent() * 10), 1000),
            throttled=self._throttled,
        )


class SimulatedMachine:
    """The machine that a simulated node pretends to be."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=2, trust_env=False)

    async def sample(self) -> Sample:
        """Raises httpx.HTTPError while the simulated node is away."""
        answer = await self._http.get("/sim/sensors")
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=Sample)


def cpu_zone(thermal: Path) -> Path | None:
    """The `temp` file of the processor's thermal zone, by the zone's type."""
    types: dict[str, Path] = {}
    for zone in sorted(thermal.glob("thermal_zone*")):
        try:
            types.setdefault((zone / "type").read_text().strip(), zone / "temp")
        except OSError as error:
            log.warning("%s cannot be read: %s", zone, error)
    return next((types[name] for name in CPU_ZONES if name in types), None)


def read_temperature(zone: Path | None) -> int | None:
    """Milli-degrees Celsius, or None without a sensor."""
    if zone is None:
        return None
    try:
        return int(zone.read_text())
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", zone, error)
        return None


def mapped_by_ollama() -> int:
    """Bytes of model files that Ollama's processes have mapped. The kernel counts such pages as free
    cache, but a model that is used needs them."""
    total = 0
    for process in psutil.process_iter(["name", "memory_info"]):
        if "ollama" in (process.info["name"] or "") and process.info["memory_info"] is not None:
            total += getattr(process.info["memory_info"], "shared", 0)
    return total


async def throttled(vcgencmd: str) -> int:
    """The bits of `vcgencmd get_throttled`; 0 when it does not answer."""
    process = await asyncio.create_subprocess_exec(
        vcgencmd, "get_throttled", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    try:
        return int(out.decode().partition("=")[2], 16)
    except ValueError:
        return 0
