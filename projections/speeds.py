"""What completions teach about a model on a node. Integer moving averages: no float takes part.

A load is learned only where the model was not resident and nothing else ran on the node: otherwise the
measured load contains a wait (a warm answer's is never 0 either).
"""

from __future__ import annotations

from orion_streams.model import events as ev
from orion_streams.model.learned import decayed, prior_tokens
from orion_streams.model.state import Demand, Grid, Length, Run, Speed

MAX_MODELS = 256
"""Demand is remembered of so many models: a client may name any."""
MEMORY = 16
"""So many answers make a model's mean length."""


def asked(grid: Grid, event: ev.RequestAccepted) -> None:
    """Count one more request for the model."""
    known, half_ms = grid.demand.get(event.model), grid.policy.demand_half_ms
    before = decayed(known, grid.at_ms, half_ms) if known is not None else 0
    grid.demand.pop(event.model, None)  # the table is in the order of asking
    grid.demand[event.model] = Demand(before + 1000, grid.at_ms)
    if len(grid.demand) > MAX_MODELS:
        del grid.demand[next(iter(grid.demand))]


def completed(grid: Grid, event: ev.RequestCompleted) -> None:
    """Fold one answer's durations into the speeds of (node, model) and the model's mean length. A prefill
    that a session's cache has shortened teaches nothing."""
    request, node = grid.open.get(event.request), grid.nodes.get(event.node)
    if request is None:
        return
    key = event.node, request.model
    known = grid.speeds.get(key, Speed())
    held = node.assignments.get(event.work_id) if node is not None else None
    load_ms, prefill_us, decode_us = known.load_ms, known.prefill_us_per_token, known.decode_us_per_token
    if event.cold and event.alone and event.load_ms > 0:
        load_ms = average(load_ms, event.load_ms)
    if event.prompt_tokens > 0 and event.prefill_ms > 0 and not (isinstance(held, Run) and held.cached):
        prefill_us = average(prefill_us, event.prefill_ms * 1000 // event.prompt_tokens)
    if event.tokens > 1 and event.decode_ms > 0:
        decode_us = average(decode_us, event.decode_ms * 1000 // event.tokens)
    grid.speeds[key] = Speed(load_ms, prefill_us, decode_us)
    if event.tokens > 0:
        mean = grid.answers.get(request.model)
        if mean is None:
            mean = Length(prior_tokens(grid, request.model) * 1000, 0)
        grid.answers[request.model] = longer(mean, event.tokens)


def longer(mean: Length, tokens: int) -> Length:
    """Return the mean after one more answer. The prior counts as half an answer, the past as `MEMORY`."""
    weight = min(2 * mean.answers + 1, 2 * MEMORY)
    milli = (weight * mean.milli + 2 * tokens * 1000) // (weight + 2)
    return Length(milli, min(mean.answers + 1, MEMORY))


def loaded(grid: Grid, event: ev.LoadEnded) -> None:
    """Learn from an ordered load that ran alone on its node."""
    if event.ok and event.alone and event.load_ms > 0:
        key = event.node, event.model
        known = grid.speeds.get(key, Speed())
        grid.speeds[key] = Speed(
            average(known.load_ms, event.load_ms), known.prefill_us_per_token, known.decode_us_per_token
        )


def average(known: int, measured: int) -> int:
    """Move a quarter of the way to the new measurement; the first one counts whole."""
    return measured if known == 0 else (3 * known + measured) // 4
