"""The page's cards: what a node does, or why it takes nothing, since when, and what has to happen. Pure."""

from __future__ import annotations

from orion_streams.decider.estimates import expected_speed
from orion_streams.decider.route import remaining_ms, warms_up
from orion_streams.gateway.grid_state import MEANT, why_away
from orion_streams.gateway.page_recent import Recent
from orion_streams.gateway.page_rows import BAD, OK, WARN, Doing, ModelChip, NodeCard
from orion_streams.gateway.page_ticks import BREAKER, LEFT, SILENT
from orion_streams.gateway.page_words import about, above, degree, passed, resting, share, short
from orion_streams.gateway.view_models import NO_INFERENCE, NO_MODELS, NodeRow
from orion_streams.model.policy import Policy
from orion_streams.model.state import Assignment, Grid, Load, Node, Run
from orion_streams.model.text import time_of_day
from orion_streams.model.vocabulary import AttemptState, Filter, Mark
from orion_streams.projections import attempts

AVAILABLE = "available"
DEAD = (Filter.SILENT, Filter.STALE)
"""States of a node that is not heard, and has not said goodbye."""
BROKEN = (*DEAD, Filter.TWO_AGENTS, Filter.NO_TEMPERATURE, Filter.STUCK_SENSOR, Filter.BREAKER, NO_MODELS)
"""States that somebody has to look after; others pass by themselves, or were meant."""
ROBOT_ROLE = "kinematics only"
UNTIL: dict[str, str] = {
    Filter.SILENT: "goes on once its agent starts",
    Filter.DRAINED: "goes on once somebody resumes it: orion resume NODE",
    Filter.QUIET: "goes on by itself then",
    Filter.LEFT: "goes on once its agent starts again",
    Filter.LEAVING: "goes on once its agent starts again",
    Filter.STALE: "goes on once it is heard again",
    Filter.INVENTORY_UNKNOWN: "goes on once its Ollama answers",
    Filter.TWO_AGENTS: "goes on once one of them stops",
    Filter.NO_TEMPERATURE: "goes on once its sensor can be read",
    Filter.STUCK_SENSOR: "goes on once its temperature moves",
    NO_MODELS: "goes on once it has a model: ollama pull",
    Filter.TOO_LARGE: "goes on once it has a smaller model",
    Filter.PLACES: "goes on once a model has gone",
    Filter.MEMORY: "goes on once memory is free",
}
"""What has to happen, by state, and NODE; for the marks and the breaker it has figures."""


def card(grid: Grid, row: NodeRow, recent: Recent) -> NodeCard:
    """Return the card of a node."""
    node, policy = grid.nodes[row.node], grid.policy
    cools = row.inference and row.state == AVAILABLE and warms_up(grid, node)
    is_held = row.state not in (AVAILABLE, NO_INFERENCE)
    return NodeCard(
        name=row.node,
        short=short(row.node),
        inference=row.inference,
        role=role(row),
        tone=WARN if cools else tone(row),
        state=row.state,
        heard_ms_ago=row.heard_ms_ago,
        temp_mc=row.temp_mc,
        temp_max_mc=policy.temp_max_mc,
        temp_return_mc=policy.temp_return_mc,
        ram_used_mb=row.ram_used_mb,
        ram_total_mb=row.ram_total_mb,
        ram_max_permille=policy.ram_max_permille,
        cpu_permille=row.cpu_permille,
        slots=row.slots,
        breaker=row.breaker,
        engine=row.engine,
        models=chips(node),
        doing=[doing(grid, node, work_id, held) for work_id, held in node.assignments.items()],
        why=why(row, policy) if is_held else cooling(node, policy) if cools else "",
        since_ms=since_ms(grid, node, row, recent) if is_held else None,
        until=until(row, policy) if is_held or cools else "",
    )


def role(row: NodeRow) -> str:
    """Say which requests a node is for."""
    if not row.inference:
        return ROBOT_ROLE
    return f"tier {', '.join(map(str, row.tiers))}" if row.tiers else "any tier"


def tone(row: NodeRow) -> str:
    """Return how much a node's state is worth looking at: the robot's grid is nobody's but its own."""
    if row.state in (AVAILABLE, NO_INFERENCE, *MEANT):
        return OK
    return BAD if row.state in BROKEN and row.inference else WARN


def why(row: NodeRow, policy: Policy) -> str:
    """Say why a node takes nothing."""
    if not row.inference:
        ago_ms = row.heard_ms_ago
        return "never heard from" if ago_ms is None else f"not heard for {passed(ago_ms)}"
    if row.state in (Filter.HOT, Filter.RAM):
        mark = policy.temp_max_mc if row.state == Filter.HOT else policy.ram_max_permille
        if row.value > mark:
            return f"takes nothing: {above(row.state, row.value, mark)}"
        unit = degree if row.state == Filter.HOT else share
        return f"takes nothing: was above {unit(mark)}, now at {unit(row.value)}"
    if row.state == Filter.DRAINED:
        return resting(row.limit, row.drained_by)
    if row.state == Filter.QUIET:
        return f"has quiet hours until {time_of_day(row.limit)}"
    if row.state == Filter.STALE:
        return f"takes nothing: not heard for {passed(row.value)}"
    return f"takes nothing: {why_away(row)}"


def cooling(node: Node, policy: Policy) -> str:
    """Say why a node that takes requests begins none."""
    return f"cools down: {degree(node.temp_mc or 0)}, about to pass {degree(policy.temp_max_mc)}"


def until(row: NodeRow, policy: Policy) -> str:
    """Say what has to happen before a node goes on."""
    if not row.inference:
        return ""
    match row.state:
        case Filter.HOT:
            return f"goes on below {degree(policy.temp_return_mc)}"
        case state if state == AVAILABLE:
            return f"begins again once it stays below {degree(policy.temp_max_mc)}"
        case Filter.RAM:
            return f"goes on below {share(policy.ram_return_permille)}"
        case Filter.BREAKER:
            return f"is tried again in {about(row.breaker_left_ms)}"
        case Filter.DRAINED if row.limit:
            return f"goes on in {about(max(row.limit - row.value, 0))}"
        case state:
            return UNTIL.get(state, "").replace("NODE", row.node)


KIND_OF: dict[str, str] = {
    Filter.HOT: Mark.HOT,
    Filter.RAM: Mark.RAM,
    Filter.BREAKER: BREAKER,
    Filter.LEFT: LEFT,
    Filter.STALE: SILENT,
}
"""Which tick lasts while a node is in that state."""


def since_ms(grid: Grid, node: Node, row: NodeRow, recent: Recent) -> int | None:
    """Return since when a node takes nothing, by the server's clock; None if that is not known."""
    if row.state == Filter.STALE and row.heard_ms_ago is not None:
        return grid.server_ms - row.heard_ms_ago
    if node.rest is not None:
        return grid.server_ms - (grid.at_ms - node.rest.since_ms)
    if row.state == Filter.BREAKER and node.opened_ms is not None:
        return grid.server_ms - (grid.at_ms - node.opened_ms)
    kind = KIND_OF.get(row.state)
    return recent.since_ms(node.rules.name, kind) if kind is not None else None


def chips(node: Node) -> list[ModelChip]:
    """Return the models in a node's memory, and those that come."""
    running: dict[str, int] = {}
    coming: dict[str, int] = {}
    for held in node.assignments.values():
        if isinstance(held, Run):
            running[held.model] = running.get(held.model, 0) + 1
        if held.model not in node.resident:
            on_disk = node.installed.get(held.model)
            coming[held.model] = on_disk.size_mb if on_disk is not None else 0
    there = [
        ModelChip(name, row.size_mb, "resident", running.get(name, 0))
        for name, row in sorted(node.resident.items())
    ]
    return there + [
        ModelChip(name, size_mb, "loading", running.get(name, 0))
        for name, size_mb in sorted(coming.items())
    ]


def doing(grid: Grid, node: Node, work_id: str, held: Assignment) -> Doing:
    """Return what a node has in hand. Its progress is by time, as expected: it never says that it is
    done."""
    state = attempts.state_of(grid, work_id, held)
    age_ms, left_ms = max(grid.at_ms - held.since_ms, 0), remaining_ms(grid, held)
    has_begun = isinstance(held, Load) or held.started
    progress = age_ms * 1000 // (age_ms + left_ms) if has_begun and age_ms + left_ms else 0
    key = held.request if isinstance(held, Run) else ""
    client, _, request_id = key.partition("/")
    request = grid.open.get(key)
    on_disk = node.installed.get(held.model)
    speed = expected_speed(grid, node, held.model, on_disk) if on_disk is not None else None
    decode_us = speed.decode_us_per_token if speed is not None and isinstance(held, Run) else 0
    return Doing(
        what="run" if isinstance(held, Run) else "load",
        client=client,
        id=request_id,
        number=request.accepted if request is not None else 0,
        model=held.model,
        state=state,
        tokens_per_s=round(1_000_000 / decode_us, 1) if decode_us else 0.0,
        progress_permille=min(progress, 999),
        age_ms=age_ms,
        ends_in_ms=left_ms,
        cold=isinstance(held, Load) or held.cold,
        text=in_words(held, state, client, age_ms, left_ms),
    )


def in_words(held: Assignment, state: AttemptState, client: str, age_ms: int, left_ms: int) -> str:
    """Say what a node does with something that it has in hand."""
    if isinstance(held, Load):
        return f"loads {held.model}, {about(left_ms)} left"
    match state:
        case AttemptState.GIVEN_UP:
            return f"ends {held.model}, which nobody waits for any more"
        case AttemptState.SENT:
            return f"is about to answer {client} with {held.model}, about {about(left_ms)}"
        case _ if age_ms < held.load_ms:
            return f"loads {held.model} for {client}, about {about(left_ms)} left"
        case _:
            return f"answers {client} with {held.model}, about {about(left_ms)} left"
