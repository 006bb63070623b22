"""The same workload under the rules as they were and as they would be, beside what was recorded."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.decider.decide import QUESTIONS
from orion_streams.replay.rule_changes import Change
from orion_streams.replay.whatif import Outcome
from orion_streams.simulation.rerun.collect_workload import Figures, Gathering
from orion_streams.simulation.rerun.recorded_heat import Heat
from orion_streams.simulation.rerun.recorded_scene import Scene, Unmeasured, heats, scene_of, unmeasured
from orion_streams.simulation.run_workload import uncollected
from orion_streams.simulation.simulation_results import ordered, percentile
from orion_streams.simulation.virtual_grid import Engine


class Rerun(Struct, frozen=True):
    """What became of the same `requests`, which came within `span_ms`: as the log says, and simulated, with
    health every `health_ms`, under the rules as they were and changed. `heat`: how warm each node gets, and
    whether that was fitted to the log; `unmeasured`: speeds that are expectations; `open`: requests that
    have no end in the log."""

    requests: int
    open: int
    span_ms: int
    health_ms: int
    recorded: Figures
    simulated_as_it_was: Figures
    simulated_changed: Figures
    heat: dict[str, Heat]
    unmeasured: tuple[Unmeasured, ...]


class Answered(Struct, frozen=True):
    """Both answers; the second one is simulated, and None where nobody wanted it."""

    what_if: Outcome
    rerun: Rerun | None


def rerun(found: Gathering, change: Change) -> Rerun:
    """Run it twice. OrionError when the log has no rules, ConfigError when the change makes none."""
    heat, recorded = heats(found), found.figures()
    was, would = scene_of(found, Change(), heat), scene_of(found, change, heat)
    ended = recorded.answered + recorded.expired + recorded.failed + recorded.cancelled
    return Rerun(
        requests=len(was.trace),
        open=len(was.trace) - ended,
        span_ms=found.now,
        health_ms=was.health_ms,
        recorded=recorded,
        simulated_as_it_was=simulated(was),
        simulated_changed=simulated(would),
        heat=heat,
        unmeasured=tuple(unmeasured(found)),
    )


def simulated(scene: Scene) -> Figures:
    """Run a scene to its end."""
    engine = Engine(
        scene.scenario, iter(scene.trace), QUESTIONS, health_ms=scene.health_ms, house=scene.house
    )
    with uncollected():
        engine.run()
    times = ordered(engine.latencies_ms)
    return Figures(
        answered=len(times),
        p50_ms=percentile(times, 50),
        p95_ms=percentile(times, 95),
        max_ms=times[-1] if times else 0,
        cold_loads=sum(node.cold_loads for node in engine.nodes.values()),
        hot_ms=round(sum(node.thermals.hot_ms for node in engine.nodes.values())),
        mark_mc=engine.policy.temp_max_mc,
        expired=engine.ended["expired"],
        failed=engine.ended["failed"],
        cancelled=engine.ended["cancelled"],
        by_node=dict(sorted(engine.answered.items())),
    )
