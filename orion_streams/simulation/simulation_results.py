"""What one simulated run comes to."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from msgspec import Struct


class Result(Struct, frozen=True):
    """One run of a trace under a policy. Times to the answer in ms; `hot_ms` above 75 °C, all nodes."""

    regime: str
    workload: str
    policy: str
    seed: int
    p50_ms: int
    p95_ms: int
    max_ms: int
    cold_loads: int
    hot_ms: int
    rejected: int


def percentile(ordered: Sequence[int], per_cent: int) -> int:
    """The least value that so many per cent are not above; 0 of nothing."""
    return ordered[-(-len(ordered) * per_cent // 100) - 1] if ordered else 0


def ordered(latencies_ms: array[int]) -> list[int]:
    """From the quickest to the slowest."""
    return sorted(latencies_ms)
