"""Fit the heat of a machine to its samples: dT/dt = (ambient + load * rise - T) / tau.

For a given tau the temperature is linear in ambient and rise, so these follow from least squares; tau is
the one of a list with the least error. Rise and tau belong to the machine and hold for the whole log; the
air changes, so each stretch of ten minutes has its own ambient. The fit compares temperatures since the
beginning of a stretch, not their differences: a sensor's resolution is coarser than the change in a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median_low

from msgspec import Struct

from orion_streams.simulation.workloads import AMBIENT_MC, HEAT_MC, TAU_S

TAUS_S = tuple(15.0 * 1.15**n for n in range(35))
"""From 15 s to half an hour."""
STRETCH_MS = 600_000
LEAST_POINTS = 60
LEAST_SPREAD = 0.01
"""Least share of variance that separates ambient and rise: a machine that never rests shows no ambient."""
LEAST_RISE_MC, ROUGHEST_MC = 1_000, 1_500
Course = tuple[tuple[int, int], ...]


class Point(Struct, frozen=True):
    """A temperature at `at_ms` of the log, `passed_ms` after the last point, and the mean load (0 to 1)
    since then. `passed_ms` 0: begins a new series."""

    at_ms: int
    passed_ms: int
    temp_mc: int
    load: float


class Heat(Struct, frozen=True, kw_only=True):
    """The `ambient` temperature of a machine by time, the rise under full load, and the time constant.
    `fitted` to `points`, with a root mean square error of `error_mc`; else the simulator's usual values."""

    fitted: bool = False
    ambient: Course = ((0, AMBIENT_MC),)
    rise_mc: int = HEAT_MC
    tau_s: float = TAU_S
    points: int = 0
    error_mc: int = 0

    @property
    def ambient_mc(self) -> int:
        """Return the median ambient temperature."""
        return median_low(mc for _, mc in self.ambient)


class Sums:
    """The sums of one stretch for least squares: x is the share of ambient, w the share of rise, y the
    temperature."""

    __slots__ = ("at_ms", "count", "ww", "wy", "xw", "xx", "xy", "yy")

    def __init__(self, at_ms: int) -> None:
        self.at_ms, self.count = at_ms, 0
        self.xx = self.xw = self.ww = self.xy = self.wy = self.yy = 0.0

    def add(self, x: float, w: float, y: float) -> None:
        """Add a temperature y, less what is left of the first one."""
        self.count += 1
        self.xx, self.xw, self.ww = self.xx + x * x, self.xw + x * w, self.ww + w * w
        self.xy, self.wy, self.yy = self.xy + x * y, self.wy + w * y, self.yy + y * y


def fit(points: Sequence[Point]) -> Heat:
    """Return the best fit, or the usual values: with too few points, with a load that hardly changes, or
    when no fit is good enough."""
    usual = Heat(points=len(points))
    if len(points) < LEAST_POINTS:
        return usual
    fits = [found for tau_s in TAUS_S if (found := solve(sums_of(points, tau_s), tau_s)) is not None]
    if not fits:
        return usual
    best = min(fits, key=lambda each: (each.error_mc, each.tau_s))
    at_an_end = best.tau_s in (round(TAUS_S[0], 1), round(TAUS_S[-1], 1))
    if at_an_end or best.rise_mc < LEAST_RISE_MC or best.error_mc > ROUGHEST_MC:
        return usual
    return best


def sums_of(points: Sequence[Point], tau_s: float) -> list[Sums]:
    """Compute the sums of each stretch for a time constant."""
    found: list[Sums] = []
    first_mc, left, worked = 0.0, 1.0, 0.0
    for point in points:
        if not found or not point.passed_ms or point.at_ms - found[-1].at_ms >= STRETCH_MS:
            found.append(Sums(point.at_ms))
            first_mc, left, worked = float(point.temp_mc), 1.0, 0.0
            continue
        decay = math.exp(-point.passed_ms / 1000 / tau_s)
        left *= decay
        worked = worked * decay + point.load * (1.0 - decay)
        found[-1].add(1.0 - left, worked, point.temp_mc - first_mc * left)
    return [each for each in found if each.count]


def solve(stretches: Sequence[Sums], tau_s: float) -> Heat | None:
    """Solve for one rise and an ambient per stretch; None if the points do not separate them."""
    apart = sum(each.ww - each.xw * each.xw / each.xx for each in stretches)
    if apart <= LEAST_SPREAD * sum(each.ww for each in stretches):
        return None
    rise = sum(each.wy - each.xw * each.xy / each.xx for each in stretches) / apart
    error, course = 0.0, []
    for each in stretches:
        ambient = (each.xy - rise * each.xw) / each.xx
        course.append((each.at_ms + STRETCH_MS // 2, round(ambient)))
        error += each.yy - ambient * each.xy - rise * each.wy
    count = sum(each.count for each in stretches)
    error_mc = round(math.sqrt(max(error, 0.0) / count))
    return Heat(
        fitted=True,
        ambient=tuple(course),
        rise_mc=round(rise),
        tau_s=round(tau_s, 1),
        points=count,
        error_mc=error_mc,
    )
