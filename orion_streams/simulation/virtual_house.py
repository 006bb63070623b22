"""Describe the grid of a simulated run: rules, machines, and when one is away."""

from __future__ import annotations

from msgspec import Struct, field

from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.workloads import LOSS, NUM_CTX, Scenario


class Model:
    """A model with its sizes on disk and in memory, in MB."""

    __slots__ = ("digest", "name", "num_ctx", "resident_mb", "size_mb")

    def __init__(self, spec: ModelSpec, num_ctx: int) -> None:
        self.name = spec.name
        self.digest = spec.digest
        self.size_mb = round(spec.size_mb)
        self.num_ctx = num_ctx
        self.resident_mb = -(-spec.resident_bytes(num_ctx) // 1_000_000)


class Pace(Struct, frozen=True):
    """Speed of a cool machine with one run of a model: ms of a load, µs per token of prompt and answer."""

    load_ms: int
    prefill_us: int
    decode_us: int


class NodeSetup(Struct, frozen=True, kw_only=True):
    """A machine at the beginning of a run: `models` on disk, `limit_mb` of memory in use at most. `paces`
    by model, where they are measured; `resident`: models in memory; `temp_mc`: None means ambient;
    `ambient`: temperature by time, where it is not the scenario's."""

    spec: NodeSpec
    models: dict[str, Model]
    limit_mb: int
    paces: dict[str, Pace] = {}
    resident: tuple[str, ...] = ()
    temp_mc: int | None = None
    ambient: tuple[tuple[int, int], ...] = ()


class Loss(Struct, frozen=True):
    """A machine is away from `from_ms` to `until_ms`, and comes back with nothing in memory."""

    node: str
    from_ms: int
    until_ms: int


class House(Struct, frozen=True):
    """`rules` with the times at which they come into force, the first at 0; `health_ms`: time between
    samples; `taught`: the grid at the beginning; `rests`: drains, their ends, and how far local time is
    ahead of the simulator's clock, by time."""

    rules: tuple[tuple[int, ev.PolicyChanged], ...]
    nodes: dict[str, NodeSetup]
    health_ms: int
    losses: tuple[Loss, ...] = ()
    taught: Grid = field(default_factory=Grid)
    rests: tuple[tuple[int, ev.AnyEvent], ...] = ()


def along(course: tuple[tuple[int, int], ...], at_ms: int) -> float:
    """Interpolate a course linearly at a time; before and after it, return its first or last value."""
    (before_ms, before), *rest = course
    for after_ms, after in rest:
        if at_ms < after_ms:
            share = max(at_ms - before_ms, 0) / (after_ms - before_ms)
            return before + (after - before) * share
        before_ms, before = after_ms, after
    return float(before)


def policy_for(health_ms: int) -> Policy:
    """Return the policy of simulated grids: nothing is rejected, no clock jumps, and placement is planned
    no more often than health comes."""
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
    """Return the house of a scenario: every machine has every model; one may be lost for a while."""
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
        nodes={
            spec.name: NodeSetup(spec=spec, models=models, limit_mb=spec.ram_total_mb * share // 1000)
            for spec in scene.nodes
        },
        health_ms=health_ms,
        losses=(Loss(scene.lost, *times),) if scene.lost else (),
    )
