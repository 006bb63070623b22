"""What is expected of a node and a model: as answers taught it, else by the priors. Pure.

Times of a load and of a token, the length of an answer, and how much a model is asked for.
"""

from __future__ import annotations

from orion_streams.model.learned import decayed, prior_tokens
from orion_streams.model.state import Grid, Installed, Node, Request, Speed
from orion_streams.model.vocabulary import RequestKind

UNMEASURED = Speed()


def expected_speed(grid: Grid, node: Node, model: str, on_disk: Installed) -> Speed:
    """Return how fast a node loads, reads and writes with a model: as learned, else by its weights."""
    learned, rules, policy = grid.speeds.get((node.rules.name, model), UNMEASURED), node.rules, grid.policy
    mb = on_disk.size_mb
    return Speed(
        learned.load_ms or mb * (rules.load_us_per_mb or policy.load_us_per_mb) // 1000,
        learned.prefill_us_per_token or mb * (rules.prefill_us_per_mb or policy.prefill_us_per_mb),
        learned.decode_us_per_token or mb * (rules.decode_us_per_mb or policy.decode_us_per_mb),
    )


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
