"""Compute the heat of a machine: its temperature, its time above the mark, and how much slower it works.

The temperature follows dT/dt = (ambient + load * heat - T) / tau, solved exactly for a constant load.
"""

from __future__ import annotations

import math

from orion_streams.simulation.machine_spec import NodeSpec

HOT_MC = 75_000
"""Time above this counts as hot, unless the policy has another mark."""
SLOW_FROM_MC, SLOWEST_AT_MC, SLOWEST = 80_000, 85_000, 1 / 3
"""A Pi slows down linearly between the two temperatures, to a third of its speed."""
STEP_MS = 1_000
"""While a machine is slowed down, its speed is constant in steps of this length."""


def warm(
    temp_mc: float, *, load: float, elapsed_s: float, ambient_mc: float, heat_mc: float, tau_s: float
) -> float:
    """Return the temperature after `elapsed_s` seconds under a constant `load` (0 to 1).

    It approaches ambient_mc + load * heat_mc monotonically, by a factor e per tau_s.
    """
    target_mc = ambient_mc + load * heat_mc
    return target_mc + (temp_mc - target_mc) * math.exp(-elapsed_s / tau_s)


def speed_at(temp_mc: float) -> float:
    """Return the share of full speed at a temperature."""
    if temp_mc <= SLOW_FROM_MC:
        return 1.0
    share = min((temp_mc - SLOW_FROM_MC) / (SLOWEST_AT_MC - SLOW_FROM_MC), 1.0)
    return 1.0 - share * (1.0 - SLOWEST)


def hot_part_ms(
    before_mc: float,
    after_mc: float,
    *,
    target_mc: float,
    tau_s: float,
    elapsed_ms: float,
    mark_mc: int = HOT_MC,
) -> float:
    """Return how many of `elapsed_ms` were above the mark, on the way from `before_mc` to `after_mc`."""
    if before_mc > mark_mc and after_mc > mark_mc:
        return elapsed_ms
    if before_mc <= mark_mc and after_mc <= mark_mc:
        return 0.0
    crossed_ms = tau_s * 1000 * math.log((before_mc - target_mc) / (mark_mc - target_mc))
    return crossed_ms if before_mc > mark_mc else elapsed_ms - crossed_ms


class Thermals:
    """The temperature of one machine in milli-degrees, and its time above `mark_mc` in ms."""

    __slots__ = ("ambient_mc", "heat_mc", "hot_ms", "mark_mc", "tau_s", "temp_mc")

    def __init__(self, spec: NodeSpec) -> None:
        self.ambient_mc = float(spec.ambient_mc)
        self.heat_mc = float(spec.heat_mc)
        self.tau_s = spec.tau_s
        self.temp_mc = self.ambient_mc
        self.mark_mc = HOT_MC
        self.hot_ms = 0.0

    def advance(self, elapsed_ms: int, load: float) -> float:
        """Let time pass under a constant load (0 to 1); return the work done, in ms at full speed."""
        if max(self.temp_mc, self.ambient_mc + load * self.heat_mc) <= SLOW_FROM_MC:
            self.pass_time(elapsed_ms, load)
            return float(elapsed_ms)
        worked_ms, left_ms = 0.0, elapsed_ms
        while left_ms > 0:
            step_ms = min(left_ms, STEP_MS)
            began_mc = self.temp_mc
            self.pass_time(step_ms, load)
            worked_ms += step_ms * speed_at((began_mc + self.temp_mc) / 2)
            left_ms -= step_ms
        return worked_ms

    def pass_time(self, elapsed_ms: float, load: float) -> None:
        """Update the temperature and the time above the mark."""
        before_mc = self.temp_mc
        self.temp_mc = warm(
            before_mc,
            load=load,
            elapsed_s=elapsed_ms / 1000,
            ambient_mc=self.ambient_mc,
            heat_mc=self.heat_mc,
            tau_s=self.tau_s,
        )
        mark_mc = self.mark_mc
        if before_mc > mark_mc or self.temp_mc > mark_mc:
            self.hot_ms += hot_part_ms(
                before_mc,
                self.temp_mc,
                target_mc=self.ambient_mc + load * self.heat_mc,
                tau_s=self.tau_s,
                elapsed_ms=elapsed_ms,
                mark_mc=mark_mc,
            )
