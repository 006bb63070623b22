"""The node-state table: health, safety backoff and what each node holds."""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.marks import is_calm
from orion_streams.model.measured import Sample
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Assignment, DiskWork, Grid, Node, Rest, parse_stream_id
from orion_streams.model.vocabulary import Code


def policy_changed(grid: Grid, event: ev.PolicyChanged) -> None:
    """Take the new rules; what is known of a node that stays is kept. Another version of the code may have
    learned otherwise from the log so far: what was learned is forgotten, so that all who read on agree."""
    if event.decider != grid.decider:
        forget_learned(grid)
    before: dict[str, Node] = grid.nodes
    grid.revision = event.revision
    grid.policy_id = event.policy_id
    grid.policy = event.policy
    grid.models = event.models
    grid.clients = event.clients
    grid.decider = event.decider
    grid.inherited = event.inherited
    grid.nodes = {rules.name: with_rules(before, rules) for rules in event.nodes}


def forget_learned(grid: Grid) -> None:
    """Drop what versions fold in different ways: a snapshot of one must not steer another."""
    grid.speeds, grid.answers = {}, {}
    grid.nodes = {
        name: replace(node, still_ms=0, most_models=0, most_models_ms=0, failed_ms=None)
        for name, node in grid.nodes.items()
    }
    for key, request in grid.open.items():
        failures = tuple(replace(each, at_ms=0) for each in request.failures)
        grid.open[key] = replace(request, failures=failures)


def with_rules(before: dict[str, Node], rules: NodeRules) -> Node:
    """Return the row of a node under new rules."""
    known = before.get(rules.name)
    return Node(rules) if known is None else replace(known, rules=rules)


def jumped(grid: Grid) -> None:
    """Take what each node has as unknown until it is heard again: after a power cut its memory is empty,
    whatever the log remembers. An entry of the same boot that this very commit takes may be older."""
    grid.jumped = True
    grid.nodes = {name: replace(node, inventory_known=False) for name, node in grid.nodes.items()}


def sampled(grid: Grid, event: ev.NodeSampled) -> None:
    """Fold a health entry: the sample, the calm ones in a row, and attempts that it does not list."""
    node = grid.nodes.get(event.node)
    if node is None:
        return
    boot_before, two_agents_ms = node.boot_before, node.two_agents_ms
    same_boot = event.boot == node.boot
    left = event.goodbye or (same_boot and node.left)
    slope_uc_per_s = slope(node, event, grid.policy.slope_smoothing_ms)
    if not same_boot:
        if event.boot == boot_before:  # back to the boot before: two agents take turns
            two_agents_ms = grid.at_ms
        boot_before = node.boot
    grid.nodes[event.node] = replace(
        node,
        heard_ms=grid.at_ms - event.age_ms,
        boot=event.boot,
        boot_before=boot_before,
        two_agents_ms=two_agents_ms,
        forecast_mc=forecast(event.temp_mc, slope_uc_per_s, grid.policy),
        slope_uc_per_s=slope_uc_per_s,
        still_ms=still_ms(node, event, grid.policy),
        sampled_ms=event.sampled_ms,
        **Sample.of(event).fields(),
        calm_samples=node.calm_samples + 1 if is_calm(node, event, grid.policy) else 0,
        work_read=event.work_read,
        inventory_known=event.inventory_known and not (grid.jumped and same_boot),
        left_out=event.left_out,
        left_out_why=event.left_out_why,
        remote=event.remote,
        sensor=event.sensor or node.sensor,
        engine=event.engine or node.engine,
        assignments=watched(node.assignments, event, grid.policy) if node.assignments else node.assignments,
        leaving=event.leaving or left,
        left=left,
    )


def slope(node: Node, event: ev.NodeSampled, smoothing_ms: int) -> int:
    """Return how fast the temperature rises, in millionths of a degree a second, smoothed over so many
    ms: steps of a sensor must not look like a fire. Time is the sample's own, since the log's may stand
    still."""
    passed_ms = event.sampled_ms - node.sampled_ms
    if event.boot != node.boot or event.temp_mc is None or node.temp_mc is None or passed_ms <= 0:
        return 0
    measured = (event.temp_mc - node.temp_mc) * 1_000_000 // passed_ms
    weight_ms = min(passed_ms, smoothing_ms)
    return (node.slope_uc_per_s * (smoothing_ms - weight_ms) + measured * weight_ms) // smoothing_ms


def forecast(temp_mc: int | None, slope_uc_per_s: int, policy: Policy) -> int:
    """Return the temperature after the horizon if it goes on rising so. At or below `derate_from_mc`,
    or while it falls, it counts as it is: a cool machine may warm up at any speed."""
    if temp_mc is None or temp_mc <= policy.derate_from_mc:
        return temp_mc or 0
    return temp_mc + max(slope_uc_per_s, 0) * policy.slope_horizon_ms // 1_000_000


BUSY_PERMILLE = 500
"""A processor that works so much warms up: a sensor that shows nothing of it may be stuck."""


def still_ms(node: Node, event: ev.NodeSampled, policy: Policy) -> int:
    """Return for how long the temperature has not moved while the processor worked, by the samples' own
    time; a gap between two counts as `stale_ms` at most, and another boot's clock not at all."""
    if event.temp_mc is None or event.temp_mc != node.temp_mc:
        return 0
    if event.cpu_permille < BUSY_PERMILLE or event.boot != node.boot:
        return node.still_ms
    return node.still_ms + min(max(event.sampled_ms - node.sampled_ms, 0), policy.stale_ms)


def watched(
    assignments: dict[str, Assignment], event: ev.NodeSampled, policy: Policy
) -> dict[str, Assignment]:
    """Count, for each assignment, the entries in a row that should list it and do not; the last entry of a
    boot counts for all that would follow."""
    read, step = parse_stream_id(event.work_read), policy.gone_samples if event.goodbye else 1
    return {
        work_id: replace(held, missing=held.missing + step)
        if event.settled and work_id not in event.in_hand and parse_stream_id(work_id) <= read
        else (replace(held, missing=0) if held.missing else held)
        for work_id, held in assignments.items()
    }


def backed_off(grid: Grid, event: ev.NodeBackedOff) -> None:
    """Remember the mark for which the node takes nothing."""
    node = grid.nodes.get(event.node)
    if node is not None:
        passed = tuple(sorted({*node.backed_off, event.reason}))
        grid.nodes[event.node] = replace(node, backed_off=passed, calm_samples=0)


def returned(grid: Grid, event: ev.NodeReturned) -> None:
    """Note that the node is back from all marks."""
    node = grid.nodes.get(event.node)
    if node is not None:
        grid.nodes[event.node] = replace(node, backed_off=(), calm_samples=0)


def drained(grid: Grid, event: ev.NodeDrained) -> None:
    """Let the node rest, from now on."""
    node = grid.nodes.get(event.node)
    if node is not None:
        rest = Rest(event.by, grid.at_ms, event.for_ms, event.drain_ms)
        grid.nodes[event.node] = replace(node, rest=rest)


def resumed(grid: Grid, event: ev.NodeResumed) -> None:
    """End the node's rest."""
    node = grid.nodes.get(event.node)
    if node is not None and node.rest is not None:
        grid.nodes[event.node] = replace(node, rest=None)


def disk_ordered(grid: Grid, event: ev.DiskOrdered) -> None:
    """Note what the node does with its disk."""
    node = grid.nodes.get(event.node)
    if node is not None:
        disk = DiskWork(event.op, event.model, event.request, event.work_id, grid.at_ms)
        grid.nodes[event.node] = replace(node, disk=disk)


def disk_ended(grid: Grid, event: ev.DiskEnded) -> None:
    """Let the node's disk take the next order."""
    node = grid.nodes.get(event.node)
    if node is not None and node.disk is not None and node.disk.work_id == event.work_id:
        grid.nodes[event.node] = replace(node, disk=None)


def zone_changed(grid: Grid, event: ev.ZoneChanged) -> None:
    """Take local time as it is from now on."""
    grid.zone_s = event.offset_s


def failed(grid: Grid, event: ev.AttemptFailed | ev.AttemptAbandoned) -> None:
    """Note that something is wrong on the node: what vanishes now may be broken."""
    node = grid.nodes.get(event.node)
    if node is not None:
        grid.nodes[event.node] = replace(node, failed_ms=grid.at_ms)


def unreachable(grid: Grid, event: ev.AttemptFailed) -> None:
    """Forget the models of a node whose Ollama was away: failing at once must not look free."""
    node = grid.nodes.get(event.node)
    if node is not None and event.code == Code.OLLAMA_UNREACHABLE:
        grid.nodes[event.node] = replace(node, inventory_known=False)


def handed_back(grid: Grid, event: ev.AttemptFailed) -> None:
    """Take it that a node which hands work back is leaving, before its health says so."""
    node = grid.nodes.get(event.node)
    if node is not None and event.code == Code.AGENT_LEAVING:
        grid.nodes[event.node] = replace(node, leaving=True)
