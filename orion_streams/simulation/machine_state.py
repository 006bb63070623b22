"""The simulated machine: temperature, memory and CPU of the computer a node runs on.

Temperature follows dT/dt = (ambient + load * heat - T) / tau. Its exact solution is computed when
somebody asks, from the monotonic time that has passed: no task ticks.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from orion_streams.simulation.machine_spec import NodeSpec

_IDLE_PERMILLE = 20
_BUSY_PERMILLE = 970


class Sensors(msgspec.Struct, frozen=True):
    """A reading: milli-degrees Celsius, MB of 10**6 bytes, thousandths of all cores."""

    temp_mc: int
    ram_used_mb: int
    ram_total_mb: int
    cpu_permille: int


def warm(
    temp_mc: float, *, load: float, elapsed_s: float, ambient_mc: float, heat_mc: float, tau_s: float
) -> float:
    """The temperature after `elapsed_s` seconds under a constant `load` (0 to 1).

    It approaches ambient_mc + load * heat_mc monotonically, by a factor e per tau_s.
    """
    target_mc = ambient_mc + load * heat_mc
    return target_mc + (temp_mc - target_mc) * math.exp(-elapsed_s / tau_s)


class Machine:
    """Heats while a run is active, cools otherwise; `resident` tells what models hold, in bytes."""

    def __init__(
        self,
        spec: NodeSpec,
        resident: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._resident = resident
        self._clock = clock
        self._seen_at = clock()
        self._temp_mc = float(spec.ambient_mc)
        self._ambient_mc = spec.ambient_mc
        self._extra_ram_mb = 0
        self.active = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts as load while the block runs."""
        self._advance()
        self.active += 1
        try:
            yield
        finally:
            self._advance()
            self.active -= 1

    @property
    def free_bytes(self) -> int:
        """Memory left for models, never below 0."""
        used_mb = self._spec.base_ram_mb + self._extra_ram_mb
        return max(0, (self._spec.ram_total_mb - used_mb) * 1_000_000 - self._resident())

    def sensors(self) -> Sensors:
        self._advance()
        total_mb = self._spec.ram_total_mb
        return Sensors(
            temp_mc=round(self._temp_mc),
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
        """Sets what is given; the temperature goes on from there by the same equation."""
        self._advance()
        if temp_mc is not None:
            self._temp_mc = float(temp_mc)
        if ambient_mc is not None:
            self._ambient_mc = ambient_mc
        if extra_ram_mb is not None:
            self._extra_ram_mb = extra_ram_mb

    def _advance(self) -> None:
        now = self._clock()
        self._temp_mc = warm(
            self._temp_mc,
            load=1.0 if self.active else 0.0,
            elapsed_s=(now - self._seen_at) * self._spec.time_scale,
            ambient_mc=self._ambient_mc,
            heat_mc=self._spec.heat_mc,
            tau_s=self._spec.tau_s,
        )
        self._seen_at = now
