"""The house of a log, as machines for the simulator, and its workload as a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median_low

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.estimates import UNMEASURED, expected_load_ms, pace
from orion_streams.decider.memory import footprint_mb
from orion_streams.errors import OrionError
from orion_streams.model import events as ev
from orion_streams.model.learned import prior_tokens
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Installed, Node
from orion_streams.replay.rule_changes import Change
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.node_physics import Model, Pace
from orion_streams.simulation.rerun.collect_workload import Asked, Gathering
from orion_streams.simulation.rerun.recorded_heat import Heat, fit
from orion_streams.simulation.virtual_house import House
from orion_streams.simulation.workloads import Arrival, Mix, Scenario

HEALTH_MS = 2_000


class Scene(Struct, frozen=True):
    """One run to be made."""

    scenario: Scenario
    house: House
    trace: tuple[Arrival, ...]
    health_ms: int


class Unmeasured(Struct, frozen=True):
    """What the log does not say of a model on a node: `what` is load, prefill or decode."""

    node: str
    model: str
    what: str


def heats(found: Gathering) -> dict[str, Heat]:
    """The warming of each machine that takes requests."""
    return {
        name: fit(machine.points)
        for name, machine in sorted(found.machines.items())
        if name in found.grid.nodes and found.grid.nodes[name].rules.takes_inference
    }


def scene_of(found: Gathering, change: Change, heat: dict[str, Heat]) -> Scene:
    """The log's workload in its house, under changed rules. OrionError without any rules."""
    if not found.rules:
        raise OrionError("the log has no policy.changed: nothing can be run again")
    rules = [(at_ms, change.of(event)) for at_ms, event in found.rules]
    contexts = contexts_of(found, rules[-1][1])
    slots = {each.name: each.slots for each in rules[-1][1].nodes}
    rows = {
        name: replace(row, rules=replace(row.rules, slots=slots.get(name, row.rules.slots)))
        for name, row in found.grid.nodes.items()
        if name in found.machines and found.machines[name].ram_total_mb
    }
    on_disk = {name: found.installed.get(name, {}) for name in rows}
    models = {name: models_of(found, row, on_disk[name], contexts) for name, row in rows.items()}
    house = House(
        rules=tuple((at_ms if n else 0, event) for n, (at_ms, event) in enumerate(rules)),
        models=models,
        limit_mb={name: found.machines[name].ram_total_mb for name in rows},
        losses=tuple(each for each in found.losses() if each.node in rows),
        paces={name: paces_of(found, row, on_disk[name]) for name, row in rows.items()},
        resident={
            name: tuple(model for model in (found.resident or {}).get(name, ()) if model in models[name])
            for name in rows
        },
        ambient={name: each.ambient for name, each in heat.items() if name in rows},
        temp_mc={name: temp for name in rows if (temp := found.machines[name].temp_mc) is not None},
        taught=found.taught,
    )
    trace = tuple(sorted(arrivals_of(found, contexts, rules[-1][1]), key=lambda each: each.at_ms))
    specs = tuple(spec_of(found, name, row, heat.get(name)) for name, row in sorted(rows.items()))
    scenario = Scenario(
        regime="recorded",
        workload="recorded",
        requests=len(trace),
        mix=Mix((), (), 0, 0.0, 0, (0, 0), 0.0),
        nodes=specs,
        gap_ms=0.0,
        span_ms=found.now,
    )
    return Scene(scenario, house, trace, health_of([event for _, event in rules]))


def health_of(rules: list[ev.PolicyChanged]) -> int:
    """How often simulated health comes: often enough that no node is stale and no time is forgotten."""
    bounds = [min(each.policy.stale_ms // 2, each.policy.max_step_ms) for each in rules]
    return max(min(HEALTH_MS, *bounds), 1)


def spec_of(found: Gathering, name: str, row: Node, heat: Heat | None) -> NodeSpec:
    """A machine. One without a fit of its own, or that never works, is as warm as it was at first."""
    machine, heat = found.machines[name], heat or Heat()
    rests = not row.rules.takes_inference
    return NodeSpec(
        name=name,
        ram_total_mb=machine.ram_total_mb,
        base_ram_mb=machine.base_mb,
        slots=row.rules.slots,
        ambient_mc=(machine.temp_mc or heat.ambient_mc) if rests else heat.ambient_mc,
        heat_mc=heat.rise_mc,
        tau_s=heat.tau_s,
    )


def contexts_of(found: Gathering, rules: ev.PolicyChanged) -> dict[str, int]:
    """The context length of each model's runner: the one that was asked for most, changed as the rules
    are."""
    asked: dict[str, Counter[int]] = {}
    for each in found.asked:
        asked.setdefault(each.event.model, Counter())[each.event.num_ctx] += 1
    before, contexts = found.rules[-1][1], {}
    names = {model for models in found.installed.values() for model in models} | set(asked)
    for model in sorted(names):
        was = before.models.get(model, NO_RULES).num_ctx or before.policy.num_ctx
        usual = asked[model].most_common(1)[0][0] or was if model in asked else was
        pinned = rules.models.get(model, NO_RULES).num_ctx
        contexts[model] = pinned or (rules.policy.num_ctx if usual == was else usual)
    return contexts


def models_of(
    found: Gathering, row: Node, on_disk: dict[str, Installed], contexts: dict[str, int]
) -> dict[str, Model]:
    """A node's models as its disk has them, with what their runners were seen to take, or would."""
    models = {}
    for name, each in sorted(on_disk.items()):
        model = Model(ModelSpec(name=name, size_mb=max(each.size_mb, 1)), contexts[name])
        model.digest = each.digest
        model.resident_mb = footprint_mb(found.grid, row, each, contexts[name])
        models[name] = model
    return models


def paces_of(found: Gathering, row: Node, on_disk: dict[str, Installed]) -> dict[str, Pace]:
    """As the log taught it at its end, else what routing expects."""
    return {
        model: Pace(
            expected_load_ms(found.grid, row, model, each),
            *pace(found.grid, row, model, each),
        )
        for model, each in on_disk.items()
    }


def unmeasured(found: Gathering) -> Iterator[Unmeasured]:
    """What was asked for, and is an expectation on some node rather than a measurement."""
    asked = {each.event.model for each in found.asked}
    for name, row in sorted(found.grid.nodes.items()):
        for model in sorted(found.installed.get(name, {})):
            if model in asked and row.rules.takes_inference:
                speed = found.grid.speeds.get((name, model), UNMEASURED)
                figures = {
                    "load": speed.load_ms,
                    "prefill": speed.prefill_us_per_token,
                    "decode": speed.decode_us_per_token,
                }
                yield from (Unmeasured(name, model, what) for what, known in figures.items() if not known)


def arrivals_of(found: Gathering, contexts: dict[str, int], rules: ev.PolicyChanged) -> Iterator[Arrival]:
    """The requests, as they came."""
    warm_ms = {model: median_low(times) for model, times in found.warm_ms.items()}
    for each in found.asked:
        event = each.event
        yield Arrival(
            at_ms=each.at_ms,
            model=event.model,
            prompt_tokens=event.prompt_tokens,
            tokens=tokens_of(found, each),
            overhead_ms=warm_ms.get(event.model, 0),
            session=event.session,
            read_tokens=each.read_tokens,
            kind=event.kind,
            num_predict=event.num_predict,
            tier=event.tier,
            priority=event.priority,
            deadline_ms=event.deadline_ms,
            cancel_ms=each.cancel_ms,
            num_ctx=contexts[event.model],
            runner=rules.models.get(event.model, NO_RULES).runner,
        )


def tokens_of(found: Gathering, asked: Asked) -> int:
    """The answer's length, else what the model's answers were on average."""
    event = asked.event
    if asked.tokens is not None:
        return asked.tokens
    if event.kind == "embed":
        return 0
    length = found.grid.answers.get(event.model)
    mean = length.milli // 1000 if length else prior_tokens(found.grid, event.model)
    return min(mean, event.num_predict) if event.num_predict else mean
