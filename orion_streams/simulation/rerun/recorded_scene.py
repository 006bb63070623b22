"""Convert the recorded machines and workload of a log to a house and a trace for the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median_low

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.decider.estimates import UNMEASURED
from orion_streams.decider.memory import footprint_mb
from orion_streams.errors import OrionError
from orion_streams.model import events as ev
from orion_streams.model.learned import prior_speed, prior_tokens
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Installed, Node
from orion_streams.replay.rule_changes import Change
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.rerun.collect_workload import RecordedNode, RecordedRequest, RecordedWorkload
from orion_streams.simulation.rerun.recorded_heat import Heat, fit
from orion_streams.simulation.virtual_house import House, Model, NodeSetup, Pace
from orion_streams.simulation.workloads import Arrival, Mix, Scenario

HEALTH_MS = 2_000


class Scene(Struct, frozen=True):
    """A run for the simulator."""

    scenario: Scenario
    house: House
    trace: tuple[Arrival, ...]


class Unmeasured(Struct, frozen=True):
    """A speed of a model on a node that the log does not show: `what` is load, prefill or decode."""

    node: str
    model: str
    what: str


def heats(found: RecordedWorkload) -> dict[str, Heat]:
    """Fit the heat of each node that takes requests."""
    return {
        name: fit(node.points)
        for name, node in sorted(found.nodes.items())
        if name in found.grid.nodes and found.grid.nodes[name].rules.takes_inference
    }


def scene_of(found: RecordedWorkload, change: Change, heat: dict[str, Heat]) -> Scene:
    """Return the recorded workload in its house under changed rules. Raises OrionError without rules."""
    if not found.rules:
        raise OrionError("the log has no policy.changed: nothing can be run again")
    rules = tuple((at_ms if n else 0, change.of(event)) for n, (at_ms, event) in enumerate(found.rules))
    last = rules[-1][1]
    contexts = contexts_of(found, last)
    trace = tuple(sorted(arrivals_of(found, contexts, last), key=lambda each: each.at_ms))
    nodes = {
        name: setup_of(found, name, last, contexts, heat.get(name))
        for name, node in sorted(found.nodes.items())
        if name in found.grid.nodes and node.ram_total_mb
    }
    house = House(
        rules=rules,
        nodes=nodes,
        health_ms=health_of([event for _, event in rules]),
        losses=tuple(each for each in found.losses() if each.node in nodes),
        taught=found.taught,
        rests=tuple(found.rests),
    )
    scenario = Scenario(
        regime="recorded",
        workload="recorded",
        requests=len(trace),
        mix=Mix(),
        nodes=tuple(each.spec for each in nodes.values()),
        gap_ms=0.0,
        span_ms=found.now,
    )
    return Scene(scenario, house, trace)


def setup_of(
    found: RecordedWorkload, name: str, rules: ev.PolicyChanged, contexts: dict[str, int], heat: Heat | None
) -> NodeSetup:
    """Return a machine as the log shows it, with the slots of the rules."""
    node, recorded, on_disk = found.grid.nodes[name], found.nodes[name], found.installed.get(name, {})
    slots = next((each.slots for each in rules.nodes if each.name == name), node.rules.slots)
    node = replace(node, rules=replace(node.rules, slots=slots))
    models = models_of(found, node, on_disk, contexts)
    return NodeSetup(
        spec=spec_of(recorded, node, heat or Heat()),
        models=models,
        limit_mb=recorded.ram_total_mb,
        paces=paces_of(found, node, on_disk),
        resident=tuple(model for model in (found.resident or {}).get(name, ()) if model in models),
        temp_mc=recorded.temp_mc,
        ambient=heat.ambient if heat is not None else (),
    )


def health_of(rules: list[ev.PolicyChanged]) -> int:
    """Return the time between samples: short enough that no node is stale and no time is cut off."""
    bounds = [min(each.policy.stale_ms // 2, each.policy.max_step_ms) for each in rules]
    return max(min(HEALTH_MS, *bounds), 1)


def spec_of(recorded: RecordedNode, node: Node, heat: Heat) -> NodeSpec:
    """Return the spec of a machine; one without inference stays at its first temperature."""
    rests = not node.rules.takes_inference
    return NodeSpec(
        name=node.rules.name,
        ram_total_mb=recorded.ram_total_mb,
        base_ram_mb=recorded.base_mb,
        slots=node.rules.slots,
        ambient_mc=(recorded.temp_mc or heat.ambient_mc) if rests else heat.ambient_mc,
        heat_mc=heat.rise_mc,
        tau_s=heat.tau_s,
    )


def contexts_of(found: RecordedWorkload, rules: ev.PolicyChanged) -> dict[str, int]:
    """Return the context length of each model's runner: the most frequent one of its requests, changed as
    the rules are."""
    asked: dict[str, Counter[int]] = {}
    for each in found.asked:
        asked.setdefault(each.event.model, Counter())[each.event.num_ctx] += 1
    before, contexts = found.rules[-1][1], {}
    for model in sorted(set(asked).union(*found.installed.values())):
        was = before.models.get(model, NO_RULES).num_ctx or before.policy.num_ctx
        usual = (asked[model].most_common(1)[0][0] if model in asked else 0) or was
        pinned = rules.models.get(model, NO_RULES).num_ctx
        contexts[model] = pinned or (rules.policy.num_ctx if usual == was else usual)
    return contexts


def models_of(
    found: RecordedWorkload, row: Node, on_disk: dict[str, Installed], contexts: dict[str, int]
) -> dict[str, Model]:
    """Return the models on a node's disk, with the memory that their runners took, or would take."""
    models = {}
    for name, each in sorted(on_disk.items()):
        model = Model(ModelSpec(name=name, size_mb=max(each.size_mb, 1)), contexts[name])
        model.digest = each.digest
        model.resident_mb = footprint_mb(found.grid, row, each, contexts[name])
        models[name] = model
    return models


def paces_of(found: RecordedWorkload, row: Node, on_disk: dict[str, Installed]) -> dict[str, Pace]:
    """Return the speeds that the log shows at its end, else those that routing expects."""
    paces = {}
    for model, each in on_disk.items():
        measured = found.grid.speeds.get((row.rules.name, model), UNMEASURED)
        prior = prior_speed(found.grid.policy, row.rules, each.size_mb)
        paces[model] = Pace(
            measured.load_ms or prior.load_ms,
            measured.prefill_us_per_token or prior.prefill_us_per_token,
            measured.decode_us_per_token or prior.decode_us_per_token,
        )
    return paces


def unmeasured(found: RecordedWorkload) -> Iterator[Unmeasured]:
    """Yield the speeds of requested models that are expected rather than measured."""
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


def arrivals_of(
    found: RecordedWorkload, contexts: dict[str, int], rules: ev.PolicyChanged
) -> Iterator[Arrival]:
    """Yield the requests as they came."""
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


def tokens_of(found: RecordedWorkload, asked: RecordedRequest) -> int:
    """Return the length of the answer, else the mean length of the model's answers."""
    event = asked.event
    if asked.tokens is not None:
        return asked.tokens
    if event.kind == "embed":
        return 0
    length = found.grid.answers.get(event.model)
    mean = length.milli // 1000 if length else prior_tokens(found.grid, event.model)
    return min(mean, event.num_predict) if event.num_predict else mean
