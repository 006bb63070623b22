"""What is expected of a node and a model: as answers taught it, else by the priors. Pure.

Times of a load and of a token, the length of an answer, and how much a model is asked for.
"""

from __future__ import annotations

from orion_streams.model.learned import decayed, prior_tokens
from orion_streams.model.state import Grid, Installed, Node, Request, Speed
from orion_streams.model.vocabulary import RequestKind

UNMEASURED = Speed()


def speed_of(grid: Grid, node: Node, model: str) -> Speed:
    """Return what completions taught about a model on a node."""
    return grid.speeds.get((node.rules.name, model), UNMEASURED)


def expected_load_ms(grid: Grid, node: Node, model: str, on_disk: Installed) -> int:
    """Return the time of a load on this node: as measured, else by what its disk is said to read."""
    learned_ms = speed_of(grid, node, model).load_ms
    return learned_ms or on_disk.size_mb * (node.rules.load_us_per_mb or grid.policy.load_us_per_mb) // 1000


def demand_now(grid: Grid, model: str) -> int:
    """Return the recent requests for the model in thousandths, halved every `demand_half_ms`."""
    found = grid.demand.get(model)
    return decayed(found, grid.at_ms, grid.policy.demand_half_ms) if found is not None else 0


def best_pace(grid: Grid, model: str) -> tuple[int, int]:
    """Return µs per token of prompt and of answer, on the fastest node that has the model on disk."""
    paces = [
        pace(grid, node, model, on_disk)
        for node in grid.nodes.values()
        if node.rules.takes_inference and (on_disk := node.installed.get(model)) is not None
    ]
    return min(paces, key=lambda each: (each[1], each[0]), default=(0, 0))


def pace(grid: Grid, node: Node, model: str, on_disk: Installed) -> tuple[int, int]:
    """Return µs per token of prompt and of answer on a node: as measured, else by the size of the
    weights."""
    speed, rules, policy = speed_of(grid, node, model), node.rules, grid.policy
    return (
        speed.prefill_us_per_token
        or on_disk.size_mb * (rules.prefill_us_per_mb or policy.prefill_us_per_mb),
        speed.decode_us_per_token or on_disk.size_mb * (rules.decode_us_per_mb or policy.decode_us_per_mb),
    )


def answer_tokens(grid: Grid, request: Request) -> int:
    """Return the expected length of the answer: the model's learned mean, at most what the request
    allows."""
    if request.kind == RequestKind.EMBED:
        return 0
    length = grid.answers.get(request.model)
    mean = length.milli // 1000 if length is not None else prior_tokens(grid, request.model)
    return min(mean, request.num_predict) if request.num_predict else mean
