"""What is expected of a node and a model: as answers taught it, else by the priors. Pure.

Times of a load and of a token, the length of an answer, and how much a model is asked for. What was
learned drifts back to the priors with time: a node that looks slow gets another chance, and nobody's
request is a probe.
"""

from __future__ import annotations

from orion_streams.model.learned import decayed, halved, prior_speed, prior_tokens
from orion_streams.model.state import Grid, Installed, Node, Request, Speed
from orion_streams.model.vocabulary import RequestKind

UNMEASURED = Speed()


def expected_speed(grid: Grid, node: Node, model: str, on_disk: Installed) -> Speed:
    """Return how fast a node loads, reads and writes with a model: between the prior, by its weights, and
    what was learned, which counts for half after each `speed_half_ms`."""
    prior = prior_speed(grid.policy, node.rules, on_disk.size_mb)
    learned = grid.speeds.get((node.rules.name, model))
    if learned is None:
        return prior
    milli = halved(1000, grid.at_ms - learned.at_ms, grid.policy.speed_half_ms)
    return Speed(
        between(prior.load_ms, learned.load_ms, milli),
        between(prior.prefill_us_per_token, learned.prefill_us_per_token, milli),
        between(prior.decode_us_per_token, learned.decode_us_per_token, milli),
    )


def between(prior: int, learned: int, milli: int) -> int:
    """Return the value so many thousandths of the way from the prior to what was learned (0: nothing)."""
    return prior + (learned - prior) * milli // 1000 if learned else prior


def demand_now(grid: Grid, model: str) -> int:
    """Return the recent requests for the model in thousandths, halved every `demand_half_ms`."""
    found = grid.demand.get(model)
    return decayed(found, grid.at_ms, grid.policy.demand_half_ms) if found is not None else 0


def best_pace(grid: Grid, model: str) -> tuple[int, int]:
    """Return µs per token of prompt and of answer, on the fastest node that has the model on disk."""
    speeds = [
        expected_speed(grid, node, model, on_disk)
        for node in grid.nodes.values()
        if node.rules.takes_inference and (on_disk := node.installed.get(model)) is not None
    ]
    paces = [(each.decode_us_per_token, each.prefill_us_per_token) for each in speeds]
    decode_us, prefill_us = min(paces, default=(0, 0))
    return prefill_us, decode_us


def answer_tokens(grid: Grid, request: Request) -> int:
    """Return the expected length of the answer: the learned mean, at most what the request allows."""
    if request.kind == RequestKind.EMBED:
        return 0
    length = grid.answers.get(request.model)
    mean = length.milli // 1000 if length is not None else prior_tokens(grid, request.model)
    return min(mean, request.num_predict) if request.num_predict else mean


def expected_work_us(grid: Grid, request: Request, pace: tuple[int, int]) -> int:
    """Return the request's own expected work in µs, at a pace as `best_pace` returns it."""
    return request.prompt_tokens * pace[0] + answer_tokens(grid, request) * pace[1]
