"""Whether what was measured over hours is flat. Pure.

A figure of a healthy grid is no line: streams and files are saw teeth (they grow, and are trimmed), memory
has peaks, and everything warms up first. So the first third is left out, the rest is cut into WINDOWS, and
only the lowest value of each counts: peaks and teeth do not reach the floor, a leak lifts it.

Growth has to be both sure and worth mentioning. Sure: the test of Mann and Kendall counts how many pairs of
floors rise; it asks for no distribution, and no single window can decide it. By chance 8 floors of
independent values have RISING_PAIRS more rising than falling pairs in 0.7 % of cases. Worth mentioning:
Theil and Sen's slope, the median of the slopes of all pairs, over the measured time exceeds a tolerance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

WINDOWS = 8
RISING_PAIRS = 20
"""Rising pairs of floors less falling ones, of 28."""
WARM_UP_SHARE = 1 / 3
LEAST_SAMPLES = 3 * WINDOWS

Sample = tuple[float, float]
"""(seconds since the start, value)"""


class Trend(Struct, frozen=True):
    """What a series does after its warm-up: its first and last floor, its highest value, Theil and Sen's
    slope per hour, whether it is flat."""

    first: float
    last: float
    highest: float
    per_hour: float
    flat: bool


def trend(samples: Sequence[Sample], tolerance: float) -> Trend | None:
    """Return the trend of a series in order of time; `tolerance`: growth over the measured time that counts
    for nothing. None: too few samples to tell."""
    if not samples:
        return None
    begin_s, end_s = samples[0][0], samples[-1][0]
    warm = [each for each in samples if each[0] >= begin_s + (end_s - begin_s) * WARM_UP_SHARE]
    if len(warm) < LEAST_SAMPLES:
        return None
    lows = floors(warm)
    slope = slope_of(lows)
    grown = slope * (lows[-1][0] - lows[0][0])
    return Trend(
        first=lows[0][1],
        last=lows[-1][1],
        highest=max(value for _, value in warm),
        per_hour=slope * 3_600,
        flat=grown <= tolerance or rising_pairs(lows) < RISING_PAIRS,
    )


def floors(samples: Sequence[Sample]) -> list[Sample]:
    """Return the lowest sample of each of WINDOWS windows with as many samples."""
    bounds = [len(samples) * n // WINDOWS for n in range(WINDOWS + 1)]
    return [min(samples[begin:end], key=lambda each: each[1]) for begin, end in itertools.pairwise(bounds)]


def slope_of(samples: Sequence[Sample]) -> float:
    """Return Theil and Sen's slope per second."""
    return median((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(samples, 2))


def rising_pairs(samples: Sequence[Sample]) -> int:
    """Return Mann and Kendall's S: pairs that rise, less those that fall."""
    return sum((b[1] > a[1]) - (b[1] < a[1]) for a, b in itertools.combinations(samples, 2))
