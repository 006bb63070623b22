"""The figures of a simulated run."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from orion_streams.model.percentiles import percentile


class Result(Struct, frozen=True, kw_only=True):
    """One run of a trace under a policy. `p50_ms`, `p95_ms`, `max_ms`: times to the answer; `hot_ms`: time
    above 75 °C, summed over the nodes."""

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


def percentiles(latencies_ms: Iterable[int]) -> dict[str, int]:
    """Return p50_ms, p95_ms and max_ms."""
    ordered = sorted(latencies_ms)
    return {f"{name}_ms": percentile(ordered, n) for name, n in (("p50", 500), ("p95", 950), ("max", 1000))}
