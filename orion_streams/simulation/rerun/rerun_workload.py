"""Simulate a recorded workload under its rules and under changed ones."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.decide import QUESTIONS
from orion_streams.replay.rule_changes import Change
from orion_streams.replay.whatif import Outcome
from orion_streams.simulation.rerun.collect_workload import Figures, RecordedWorkload
from orion_streams.simulation.rerun.recorded_heat import Heat
from orion_streams.simulation.rerun.recorded_scene import Scene, Unmeasured, heats, scene_of, unmeasured
from orion_streams.simulation.run_workload import uncollected
from orion_streams.simulation.virtual_grid import Engine


class Rerun(Struct, frozen=True):
    """The outcomes of the same `requests`, which came within `span_ms`: recorded, and simulated under the
    recorded and the changed rules with samples every `health_ms`. `heat`: the heat of each node, fitted or
    usual; `unmeasured`: speeds that are expected only; `open`: requests without an end in the log."""

    requests: int
    open: int
    span_ms: int
    health_ms: int
    recorded: Figures
    simulated_as_it_was: Figures
    simulated_changed: Figures
    heat: dict[str, Heat]
    unmeasured: tuple[Unmeasured, ...]


class WhatIfResult(Struct, frozen=True):
    """The decisions that would change, and the simulated rerun, None where it is not wanted."""

    what_if: Outcome
    rerun: Rerun | None


def rerun(found: RecordedWorkload, change: Change) -> Rerun:
    """Simulate a workload twice. Raises OrionError when the log has no rules, ConfigError when the change
    makes no valid rules."""
    heat, recorded = heats(found), found.figures()
    was, would = scene_of(found, Change(), heat), scene_of(found, change, heat)
    ended = recorded.answered + recorded.expired + recorded.failed + recorded.cancelled
    return Rerun(
        requests=len(was.trace),
        open=len(was.trace) - ended,
        span_ms=found.now,
        health_ms=was.house.health_ms,
        recorded=recorded,
        simulated_as_it_was=simulated(was),
        simulated_changed=simulated(would),
        heat=heat,
        unmeasured=tuple(unmeasured(found)),
    )


def simulated(scene: Scene) -> Figures:
    """Run a scene to its end."""
    engine = Engine(scene.scenario, iter(scene.trace), QUESTIONS, scene.house)
    with uncollected():
        engine.run()
    return Figures(
        answered=len(engine.latencies_ms),
        **engine.figures(),
        mark_mc=engine.policy.temp_max_mc,
        expired=engine.ended["expired"],
        failed=engine.ended["failed"],
        cancelled=engine.ended["cancelled"],
        by_node=dict(sorted(engine.answered.items())),
    )
