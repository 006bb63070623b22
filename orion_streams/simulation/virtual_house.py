"""The house of a run: its rules, what its machines have on disk, how fast they are, when one is away."""

from __future__ import annotations

from msgspec import Struct, field

from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.simulation.node_physics import Model, Pace
from orion_streams.simulation.workloads import LOSS, NUM_CTX, Scenario


class Loss(Struct, frozen=True):
    """A machine that is gone for a while, and comes back empty."""

    node: str
    from_ms: int
    until_ms: int


class House(Struct, frozen=True):
    """`rules` with the times at which they come into force, the first at 0. By node: `models` on disk,
    `limit_mb` of its memory, `paces` by model where they are known, `resident` models at the beginning and
    `temp_mc` then, and the `ambient` temperature by time, where it is not the scenario's. `taught`: the
    grid to begin with."""

    rules: tuple[tuple[int, ev.PolicyChanged], ...]
    models: dict[str, dict[str, Model]]
    limit_mb: dict[str, int]
    losses: tuple[Loss, ...] = ()
    paces: dict[str, dict[str, Pace]] = {}
    resident: dict[str, tuple[str, ...]] = {}
    temp_mc: dict[str, int] = {}
    ambient: dict[str, tuple[tuple[int, int], ...]] = {}
    taught: Grid = field(default_factory=Grid)


def along(course: tuple[tuple[int, int], ...], at_ms: int) -> float:
    """A value of a course at a time: on a straight line between two, before and after it as at its ends."""
    (before_ms, before), *rest = course
    for after_ms, after in rest:
        if at_ms < after_ms:
            share = max(at_ms - before_ms, 0) / (after_ms - before_ms)
            return before + (after - before) * share
        before_ms, before = after_ms, after
    return float(before)


def policy_for(health_ms: int) -> Policy:
    """The rules of every simulated grid: nothing is rejected, no clock jumps; the plan is looked at no more
    often than health comes."""
    return Policy(
        plan_every_ms=max(Policy().plan_every_ms, health_ms),
        stale_ms=max(6_000, 3 * health_ms),
        max_step_ms=1_000_000_000,
        max_attempts=1_000_000,
        max_open=1_000_000,
        default_deadline_ms=86_400_000,
        max_deadline_ms=86_400_000,
        attempt_deadline_ms=86_400_000,
        dedupe_keep=64,
        max_events=1_000,
        max_bytes=1_000_000_000,
        num_ctx=NUM_CTX,
    )


def usual_house(scene: Scenario, health_ms: int) -> House:
    """The house of a scenario: every machine has every model; one may be lost for a while."""
    policy = policy_for(health_ms)
    models = {each.name: Model(each, NUM_CTX) for each in scene.mix.models}
    share = policy.ram_max_permille - policy.ram_margin_permille
    rules = tuple(
        NodeRules(
            name=spec.name,
            inference=spec.name != "orion-edge",
            tiers={"orion-master": (1,), "orion-edge": ()}.get(spec.name, (2,)),
            slots=spec.slots,
            ram_mb=spec.ram_total_mb,
            load_us_per_mb=round(1e6 / spec.disk_mb_per_s) if spec.disk_mb_per_s else policy.load_us_per_mb,
        )
        for spec in sorted(scene.nodes, key=lambda each: each.name)
    )
    times = (round(share * scene.span_ms) for share in LOSS)
    return House(
        rules=((0, ev.PolicyChanged(1, "simulated", policy, rules)),),
        models={spec.name: models for spec in scene.nodes},
        limit_mb={spec.name: spec.ram_total_mb * share // 1000 for spec in scene.nodes},
        losses=(Loss(scene.lost, *times),) if scene.lost else (),
    )
