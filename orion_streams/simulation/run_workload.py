"""Simulate one trial: a workload in a regime under a policy, with a seed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.simulation.baseline_policies import LOWER_BOUND, questions_of
from orion_streams.simulation.simulation_results import Result
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.virtual_house import usual_house
from orion_streams.simulation.workloads import arrivals, scenario

HEALTH_MS = 2_000
MANY, MANY_HEALTH_MS = 10_000, 60_000
"""Beyond MANY requests samples would cost more than the requests: the default is this instead."""


class Trial(Struct, frozen=True):
    """One run. `health_ms`: time between samples, 0 for the default; `fifo`: see Scenario."""

    regime: str
    workload: str
    policy: str
    seed: int
    requests: int
    nodes: int = 3
    health_ms: int = 0
    fifo: bool = False


def simulate(trial: Trial, progress: Callable[[int], None] | None = None) -> Result:
    """Run a trial and return its figures; call `progress` with the number of answers, every 1,000."""
    scene = scenario(trial.regime, trial.workload, trial.requests, trial.nodes)
    scene = replace(scene, fifo=trial.fifo)
    engine = Engine(
        scene,
        arrivals(scene, trial.seed),
        questions_of(trial.policy, trial.seed),
        usual_house(scene, trial.health_ms or health_for(trial.requests)),
        all_warm=trial.policy == LOWER_BOUND,
        progress=progress,
    )
    with uncollected():
        engine.run()
    return engine.result(trial.policy, trial.seed)


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable the cyclic garbage collector: a run makes no cycles, and looking costs a tenth of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def health_for(requests: int) -> int:
    """Return the default time between samples for a number of requests."""
    return HEALTH_MS if requests <= MANY else MANY_HEALTH_MS
