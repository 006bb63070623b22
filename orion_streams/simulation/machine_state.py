"""Simulate the computer of a node in real time: temperature, memory and CPU.

The temperature is computed when it is read, from the monotonic time since the last reading: no task ticks.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orion_streams.model.measured import Sample
from orion_streams.simulation.machine_spec import NodeSpec
from orion_streams.simulation.thermal_model import Thermals

_IDLE_PERMILLE = 20
_BUSY_PERMILLE = 970


class Machine:
    """Heats while a run is active, else cools. `resident` returns the bytes that models hold."""

    def __init__(
        self,
        spec: NodeSpec,
        resident: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._resident = resident
        self._clock = clock
        self._seen_s = clock()
        self._thermals = Thermals(spec)
        self._extra_ram_mb = 0
        self.active = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count as load while the block runs."""
        self._advance()
        self.active += 1
        try:
            yield
        finally:
            self._advance()
            self.active -= 1

    @property
    def free_bytes(self) -> int:
        """Return the memory left for models, never below 0."""
        used_mb = self._spec.base_ram_mb + self._extra_ram_mb
        return max(0, (self._spec.ram_total_mb - used_mb) * 1_000_000 - self._resident())

    def sensors(self) -> Sample:
        """Read the machine."""
        self._advance()
        total_mb = self._spec.ram_total_mb
        return Sample(
            temp_mc=round(self._thermals.temp_mc),
            ram_used_mb=total_mb - self.free_bytes // 1_000_000,
            ram_total_mb=total_mb,
            cpu_permille=_BUSY_PERMILLE if self.active else _IDLE_PERMILLE,
        )

    def push(
        self,
        *,
        temp_mc: int | None = None,
        ambient_mc: int | None = None,
        extra_ram_mb: int | None = None,
    ) -> None:
        """Set what is given; the temperature goes on from there."""
        self._advance()
        if temp_mc is not None:
            self._thermals.temp_mc = float(temp_mc)
        if ambient_mc is not None:
            self._thermals.ambient_mc = float(ambient_mc)
        if extra_ram_mb is not None:
            self._extra_ram_mb = extra_ram_mb

    def _advance(self) -> None:
        before_s, self._seen_s = self._seen_s, self._clock()
        elapsed_ms = (self._seen_s - before_s) * 1000 * self._spec.time_scale
        self._thermals.pass_time(elapsed_ms, 1.0 if self.active else 0.0)
