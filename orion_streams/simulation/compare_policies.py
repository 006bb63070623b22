"""All policies on the same traces: medians over seeds, and the goals they are held to.

The best baseline of a workload is the one with the least median p95; `lower-bound` is no baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.simulation.baseline_policies import BASELINES, LOWER_BOUND, OURS, POLICIES
from orion_streams.simulation.process_pool import spread
from orion_streams.simulation.run_workload import simulate
from orion_streams.simulation.simulation_results import Result


class Job(Struct, frozen=True):
    """One run of a comparison."""

    regime: str
    workload: str
    policy: str
    seed: int
    requests: int
    nodes: int
    health_ms: int
    fifo: bool


class Median(Struct, frozen=True):
    """A policy's medians over the seeds of a workload; `rejected` is the sum."""

    p50_ms: float
    p95_ms: float
    max_ms: float
    cold_loads: float
    hot_ms: float
    rejected: int


class Verdict(Struct, frozen=True):
    """A goal on one workload: what was measured against which bound. `binding`: it must be met; the
    others are to strive for. `of`: whom ours is compared with."""

    goal: str
    measured: float
    bound: str
    is_met: bool
    binding: bool
    of: str


Medians = dict[str, Median]


def jobs(like: Job, regimes: Sequence[str], workloads: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """List the runs of a comparison in the order of its results: `like`, with every policy and the given
    regimes, workloads and seeds."""
    return [
        replace(like, regime=regime, workload=workload, policy=policy, seed=seed)
        for regime in regimes
        for workload in workloads
        for policy in POLICIES
        for seed in seeds
    ]


def run_job(job: Job, progress: Callable[[int], None] | None = None) -> Result:
    """Simulate one run; call `progress` with the requests that have ended."""
    return simulate(
        job.regime,
        job.workload,
        job.policy,
        job.seed,
        requests=job.requests,
        nodes=job.nodes,
        health_ms=job.health_ms,
        fifo=job.fifo,
        progress=progress,
    )


def run_all(work: Sequence[Job], processes: int = 0) -> Iterator[Result]:
    """All runs, in their order; on every core (0), or on so many."""
    return spread(run_job, work, processes)


def medians(results: Sequence[Result]) -> dict[tuple[str, str], Medians]:
    """By regime and workload: each policy's medians, in the order of the results."""
    groups: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for each in results:
        groups.setdefault((each.regime, each.workload), {}).setdefault(each.policy, []).append(each)
    return {
        key: {policy: median_of(rows) for policy, rows in by_policy.items()}
        for key, by_policy in groups.items()
    }


def median_of(rows: Sequence[Result]) -> Median:
    """One policy over the seeds."""
    return Median(
        p50_ms=median(each.p50_ms for each in rows),
        p95_ms=median(each.p95_ms for each in rows),
        max_ms=median(each.max_ms for each in rows),
        cold_loads=median(each.cold_loads for each in rows),
        hot_ms=median(each.hot_ms for each in rows),
        rejected=sum(each.rejected for each in rows),
    )


def best_baseline(found: Medians) -> str:
    """The baseline with the least p95."""
    return min(BASELINES, key=lambda name: found[name].p95_ms)


def verdicts(regime: str, found: Medians) -> list[Verdict]:
    """Ours against its goals."""
    ours, best = found[OURS], best_baseline(found)
    rows = [
        at_most("p95", ours.p95_ms, found[best].p95_ms, 1.02, best, binding=True),
        at_most("hot", ours.hot_ms, found[best].hot_ms, 1.1, best, binding=True),
        at_most("longest", ours.max_ms, found[best].max_ms, 1.1, best, binding=True),
    ]
    if regime == "decode-heavy":
        rows.append(at_most("vs points", ours.p95_ms, found["points"].p95_ms, 0.85, "points"))
        rows.append(at_most("vs bound", ours.p95_ms, found[LOWER_BOUND].p95_ms, 1.06, LOWER_BOUND))
    else:
        times = found["round-robin"].p95_ms / max(ours.p95_ms, 1)
        rows.append(Verdict("vs round-robin", times, "≥ 8", times >= 8, False, "round-robin"))
        rows.append(at_most("vs bound", ours.p95_ms, found[LOWER_BOUND].p95_ms, 1.2, LOWER_BOUND))
    return rows


def at_most(
    goal: str, ours: float, theirs: float, factor: float, of: str, *, binding: bool = False
) -> Verdict:
    """Ours is at most so many times theirs. Nothing against nothing is equal."""
    measured = ours / theirs if theirs else (1.0 if not ours else float("inf"))
    return Verdict(goal, measured, f"≤ {factor:g}", ours <= factor * theirs, binding, of)
