"""Heat and its cost: how warm a machine gets, how long it is above the mark, how much slower it works.

The temperature follows `ollama.machine.warm`, exactly, between two moments of constant load.
"""

from __future__ import annotations

import math

from orion_streams.simulation.machine_spec import NodeSpec
from orion_streams.simulation.machine_state import warm

HOT_MC = 75_000
"""Time above this counts as hot, unless the rules have another mark for the safety backoff."""
SLOW_FROM_MC, SLOWEST_AT_MC, SLOWEST = 80_000, 85_000, 1 / 3
"""A Pi slows down progressively between the two temperatures, to a third of its speed."""
STEP_MS = 1_000
"""While a machine is slowed down, its speed counts as constant for so long."""


def speed_at(temp_mc: float) -> float:
    """The share of full speed that a machine of this temperature works at."""
    if temp_mc <= SLOW_FROM_MC:
        return 1.0
    share = min((temp_mc - SLOW_FROM_MC) / (SLOWEST_AT_MC - SLOW_FROM_MC), 1.0)
    return 1.0 - share * (1.0 - SLOWEST)


def hot_part_ms(
    before_mc: float,
    after_mc: float,
    target_mc: float,
    tau_s: float,
    elapsed_ms: int,
    mark_mc: int = HOT_MC,
) -> float:
    """How many of `elapsed_ms` were above the mark, on the way from `before_mc` to `after_mc`."""
    if before_mc > mark_mc and after_mc > mark_mc:
        return elapsed_ms
    if before_mc <= mark_mc and after_mc <= mark_mc:
        return 0.0
    crossed_ms = tau_s * 1000 * math.log((before_mc - target_mc) / (mark_mc - target_mc))
    return crossed_ms if before_mc > mark_mc else elapsed_ms - crossed_ms


class Thermals:
    """One machine's temperature in milli-degrees, and the ms that it has been above `mark_mc`."""

    __slots__ = ("ambient_mc", "heat_mc", "hot_ms", "mark_mc", "tau_s", "temp_mc")

    def __init__(self, spec: NodeSpec) -> None:
        self.ambient_mc = float(spec.ambient_mc)
        self.heat_mc = float(spec.heat_mc)
        self.tau_s = spec.tau_s
        self.temp_mc = self.ambient_mc
        self.mark_mc = HOT_MC
        self.hot_ms = 0.0

    def advance(self, elapsed_ms: int, load: float) -> float:
        """Let time pass under a constant load (0 to 1). How many ms of work at full speed that made."""
        before_mc = self.temp_mc
        target_mc = self.ambient_mc + load * self.heat_mc
        if before_mc <= SLOW_FROM_MC and target_mc <= SLOW_FROM_MC:
            self.pass_time(elapsed_ms, load, target_mc)
            return float(elapsed_ms)
        worked_ms, left_ms = 0.0, elapsed_ms
        while left_ms > 0:
            step_ms = min(left_ms, STEP_MS)
            began_mc = self.temp_mc
            self.pass_time(step_ms, load, target_mc)
            worked_ms += step_ms * speed_at((began_mc + self.temp_mc) / 2)
            left_ms -= step_ms
        return worked_ms

    def pass_time(self, elapsed_ms: int, load: float, target_mc: float) -> None:
        """The new temperature, and the part of the time that was hot."""
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
            self.hot_ms += hot_part_ms(before_mc, self.temp_mc, target_mc, self.tau_s, elapsed_ms, mark_mc)
