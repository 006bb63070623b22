"""Compare all policies on the same traces: medians over seeds, and the goals.

The best baseline of a workload is the one with the least median p95; `lower-bound` is no baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.simulation.baseline_policies import BASELINES, LOWER_BOUND, OURS, POLICIES
from orion_streams.simulation.process_pool import spread
from orion_streams.simulation.run_workload import Trial, simulate
from orion_streams.simulation.simulation_results import Result


class Median(Struct, frozen=True):
    """Medians of a policy over the seeds of a workload; `rejected` is the sum."""

    p50_ms: float
    p95_ms: float
    max_ms: float
    cold_loads: float
    hot_ms: float
    rejected: int


class Goal(Struct, frozen=True):
    """A goal on one workload: what was measured, and its bound. A `binding` one must be met."""

    name: str
    measured: float
    bound: str
    is_met: bool
    binding: bool = False


Medians = dict[str, Median]


def trials(
    like: Trial, regimes: Sequence[str], workloads: Sequence[str], seeds: Sequence[int]
) -> list[Trial]:
    """List the trials of a comparison in the order of its results: `like`, with every policy and the given
    regimes, workloads and seeds."""
    return [
        replace(like, regime=regime, workload=workload, policy=policy, seed=seed)
        for regime in regimes
        for workload in workloads
        for policy in POLICIES
        for seed in seeds
    ]


def run_all(work: Sequence[Trial], processes: int = 0) -> Iterator[Result]:
    """Yield all results in the order of the trials; run on every core (0), or in `processes`."""
    return spread(simulate, work, processes)


def medians(results: Sequence[Result]) -> dict[tuple[str, str], Medians]:
    """Return the medians of each policy by regime and workload, in the order of the results."""
    groups: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for each in results:
        groups.setdefault((each.regime, each.workload), {}).setdefault(each.policy, []).append(each)
    return {
        key: {policy: median_of(rows) for policy, rows in by_policy.items()}
        for key, by_policy in groups.items()
    }


def median_of(rows: Sequence[Result]) -> Median:
    """Compute the medians of one policy over the seeds."""
    return Median(
        p50_ms=median(each.p50_ms for each in rows),
        p95_ms=median(each.p95_ms for each in rows),
        max_ms=median(each.max_ms for each in rows),
        cold_loads=median(each.cold_loads for each in rows),
        hot_ms=median(each.hot_ms for each in rows),
        rejected=sum(each.rejected for each in rows),
    )


def best_baseline(found: Medians) -> str:
    """Return the baseline with the lowest p95."""
    return min(BASELINES, key=lambda name: found[name].p95_ms)


def goals(regime: str, found: Medians) -> list[Goal]:
    """Measure ours against its goals."""
    ours, best, bound = found[OURS], found[best_baseline(found)], found[LOWER_BOUND]
    rows = [
        at_most("p95", ours.p95_ms, best.p95_ms, 1.02, binding=True),
        at_most("hot", ours.hot_ms, best.hot_ms, 1.1, binding=True),
        at_most("longest", ours.max_ms, best.max_ms, 1.1, binding=True),
    ]
    if regime == "decode-heavy":
        rows.append(at_most("vs points", ours.p95_ms, found["points"].p95_ms, 0.85))
        rows.append(at_most("vs bound", ours.p95_ms, bound.p95_ms, 1.06))
    else:
        times = found["round-robin"].p95_ms / max(ours.p95_ms, 1)
        rows.append(Goal("vs round-robin", times, "≥ 8", times >= 8))
        rows.append(at_most("vs bound", ours.p95_ms, bound.p95_ms, 1.2))
    return rows


def at_most(name: str, ours: float, theirs: float, factor: float, *, binding: bool = False) -> Goal:
    """Make the goal that ours is at most `factor` times theirs; 0 of 0 counts as equal."""
    measured = ours / theirs if theirs else (1.0 if not ours else float("inf"))
    return Goal(name, measured, f"≤ {factor:g}", ours <= factor * theirs, binding)
