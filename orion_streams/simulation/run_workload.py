"""One run from names: a workload in a regime, a policy, a seed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from orion_streams.simulation.baseline_policies import LOWER_BOUND, questions_of
from orion_streams.simulation.simulation_results import Result
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.workloads import arrivals, scenario

HEALTH_MS = 2_000
MANY, MANY_HEALTH_MS = 10_000, 60_000
"""Beyond so many requests health comes less often, unless it is said how often: samples would cost more
than the requests."""


def simulate(
    regime: str,
    workload: str,
    policy: str,
    seed: int,
    *,
    requests: int,
    nodes: int = 3,
    health_ms: int = 0,
    fifo: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Run it, and say what it came to. `health_ms` 0: as often as fits so many requests."""
    scene = replace(scenario(regime, workload, requests, nodes), fifo=fifo)
    engine = Engine(
        scene,
        arrivals(scene, seed),
        questions_of(policy, seed),
        all_warm=policy == LOWER_BOUND,
        health_ms=health_ms or health_for(requests),
        progress=progress,
    )
    with uncollected():
        engine.run()
    return engine.result(policy, seed)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the cyclic collector: a run makes no cycles, and looking for them costs a tenth of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def health_for(requests: int) -> int:
    """The time between two health entries of a run of so many requests."""
    return HEALTH_MS if requests <= MANY else MANY_HEALTH_MS
