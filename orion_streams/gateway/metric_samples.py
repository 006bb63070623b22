"""What the folded grid says at the moment of a scrape, as samples of gauges. Pure.

A node that is not heard has no temperature, no memory and no models, rather than old ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orion_streams.gateway.view_models import NodeRow, node_row
from orion_streams.model import metric_specs as specs
from orion_streams.model.marks import is_heard, ram_permille
from orion_streams.model.metric_specs import OTHER, Metric
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import BreakerState, RequestState
from orion_streams.projections.requests import state_of

Sample = tuple[Metric, tuple[str, ...], float]
"""A metric, the values of its labels, its value."""
THROTTLED_NOW = 0b1111
"""Of the bits of `vcgencmd get_throttled` those that speak of now: voltage, frequency, heat."""


def samples(grid: Grid, silent_ms: int, models: list[str], nodes: list[str]) -> Iterator[Sample]:
    """Yield the gauges of a grid that was moved on to now. `silent_ms`: for how long no router has looked;
    `models`, `nodes`: those that have a label."""
    yield specs.SILENT, (), silent_ms / 1000
    yield specs.POSITION, (), grid.position
    yield specs.REVISION, (), grid.revision
    yield specs.TEMPERATURE_MARK, (), grid.policy.temp_max_mc / 1000
    yield specs.MEMORY_MARK, (), grid.policy.ram_max_permille / 1000
    yield from of_queue(grid)
    for name in sorted(grid.nodes.keys() & set(nodes)):
        yield from of_node(grid, name, set(models))


def of_queue(grid: Grid) -> Iterator[Sample]:
    """Yield what is said of the open requests."""
    states = Counter(state_of(each) for each in grid.open.values())
    waits_ms = [grid.at_ms - each.accepted_ms for each in grid.open.values() if not each.work_id]
    yield specs.QUEUE_DEPTH, (), states[RequestState.WAITING]
    yield specs.QUEUE_OLDEST, (), max(waits_ms, default=0) / 1000
    for state in specs.STATES:
        yield specs.OPEN, (state,), states[state]


def of_node(grid: Grid, name: str, models: set[str]) -> Iterator[Sample]:
    """Yield what is said of a node."""
    node = grid.nodes[name]
    row = node_row(grid, node)
    is_free = row.state == "available"
    yield specs.AVAILABLE, (name, "" if is_free else row.state), float(is_free)
    yield specs.BREAKER_OPEN, (name,), float(row.breaker == BreakerState.OPEN)
    yield specs.RUNS, (name,), row.in_hand
    yield specs.SLOTS, (name,), row.slots
    if row.heard_ms_ago is not None:
        yield specs.HEARD, (name,), max(row.heard_ms_ago, 0) / 1000
    if not is_heard(grid, node):
        return
    yield from of_machine(row, ram_permille(node))
    resident = Counter(model if model in models else OTHER for model in row.resident)
    for model, count in sorted(resident.items()):
        yield specs.RESIDENT, (name, model), count


def of_machine(row: NodeRow, memory_permille: int) -> Iterator[Sample]:
    """Yield what a node that is heard says of its machine."""
    if row.temp_mc is not None:
        yield specs.TEMPERATURE, (row.node,), row.temp_mc / 1000
    if row.ram_total_mb:
        yield specs.MEMORY, (row.node,), memory_permille / 1000
    yield specs.CPU, (row.node,), row.cpu_permille / 1000
    yield specs.THROTTLED, (row.node,), float(bool(row.throttled & THROTTLED_NOW))
