"""What completions teach about a model on a node, in integers: no float takes part.

A speed is the median of its last five samples, filled up to three values with the prior: no absurd sample
counts, two of five neither. A moving average would take weeks to forget an answer that claims six days.
A load is learned only where the model was not resident and nothing else ran on the node: otherwise the
measured load contains a wait (a warm answer's is never 0 either).
"""

from __future__ import annotations

from orion_streams.model import events as ev
from orion_streams.model.learned import decayed, prior_speed, prior_tokens
from orion_streams.model.state import Demand, Grid, Length, Run, Speed

MAX_MODELS = 256
"""Demand is remembered of so many models: a client may name any."""
MEMORY = 16
"""So many answers make a model's mean length."""
LONGER_MAX = 8
"""An answer counts as at most so many times the mean before it."""
SAMPLES, SAMPLES_MIN = 5, 3
"""A median is of the last five samples, and of no fewer than three values."""


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
    held = node.assignments.get(event.work_id) if node is not None else None
    load_ms = prefill_us = decode_us = 0
    if event.cold and event.alone:
        load_ms = event.load_ms
    if event.prompt_tokens > 0 and not (isinstance(held, Run) and held.cached):
        prefill_us = event.prefill_ms * 1000 // event.prompt_tokens
    if event.tokens > 1:
        decode_us = event.decode_ms * 1000 // event.tokens
    learn(grid, event.node, request.model, load_ms, prefill_us, decode_us)
    if event.tokens > 0:
        mean = grid.answers.get(request.model)
        if mean is None:
            mean = Length(prior_tokens(grid, request.model) * 1000, 0)
        grid.answers[request.model] = longer(mean, event.tokens)


def longer(mean: Length, tokens: int) -> Length:
    """Return the mean after one more answer. The prior counts as half an answer, the past as `MEMORY`."""
    weight = min(2 * mean.answers + 1, 2 * MEMORY)
    counted_milli = min(tokens * 1000, LONGER_MAX * max(mean.milli, 1000))
    milli = (weight * mean.milli + 2 * counted_milli) // (weight + 2)
    return Length(milli, min(mean.answers + 1, MEMORY))


def loaded(grid: Grid, event: ev.LoadEnded) -> None:
    """Learn once from an ordered load that ran alone on its node."""
    node = grid.nodes.get(event.node)
    if event.ok and event.alone and node is not None and event.work_id in node.assignments:
        learn(grid, event.node, event.model, event.load_ms)


def learn(grid: Grid, name: str, model: str, load_ms: int, prefill_us: int = 0, decode_us: int = 0) -> None:
    """Take one more sample of each speed that was measured (not 0)."""
    if not (load_ms or prefill_us or decode_us):
        return
    known, node = grid.speeds.get((name, model), Speed()), grid.nodes.get(name)
    prior = Speed()
    if node is not None and model in node.installed:
        prior = prior_speed(grid.policy, node.rules, node.installed[model].size_mb)
    loads = latest(known.loads, load_ms)
    prefills = latest(known.prefills, prefill_us)
    decodes = latest(known.decodes, decode_us)
    grid.speeds[name, model] = Speed(
        median(loads, prior.load_ms),
        median(prefills, prior.prefill_us_per_token),
        median(decodes, prior.decode_us_per_token),
        grid.at_ms,
        loads,
        prefills,
        decodes,
    )


def latest(samples: tuple[int, ...], measured: int) -> tuple[int, ...]:
    """Return the last samples, the new one (0: none) among them."""
    return (*samples, measured)[-SAMPLES:] if measured else samples


def median(samples: tuple[int, ...], prior: int) -> int:
    """Return the middle one, the lower of two; 0 for no sample."""
    if not samples:
        return 0
    missing = SAMPLES_MIN - len(samples) if prior else 0
    values = sorted((*samples, *((prior,) * missing)))
    return values[(len(values) - 1) // 2]
