"""What is to be expected of a node and a model: as answers taught it, else by the priors. Pure.

Times of a load and of a token, the length of an answer, and how much a model is asked for.
"""

from __future__ import annotations

from orion_streams.model.learned import decayed, prior_tokens
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Installed, Node, Request, Speed

UNMEASURED = Speed()


def expected_load_ms(grid: Grid, node: Node, model: str, on_disk: Installed, policy: Policy) -> int:
    """A load on this node: as measured, else by what its disk is said to read."""
    known = grid.speeds.get(f"{node.rules.name} {model}", UNMEASURED).load_ms
    return known or on_disk.size_mb * (node.rules.load_us_per_mb or policy.load_us_per_mb) // 1000


def demand_now(grid: Grid, model: str, policy: Policy) -> int:
    """Requests for the model of late, in thousandths, halved every `demand_half_ms`."""
    found = grid.demand.get(model)
    return decayed(found, grid.at_ms, policy.demand_half_ms) if found is not None else 0


def best_pace(grid: Grid, model: str, policy: Policy) -> tuple[int, int]:
    """µs per token of prompt and of answer, on the fastest node that has the model on disk."""
    paces = [
        pace(grid, node, model, on_disk, policy)
        for node in grid.nodes.values()
        if node.rules.takes_inference and (on_disk := node.installed.get(model)) is not None
    ]
    return min(paces, key=lambda each: (each[1], each[0]), default=(0, 0))


def pace(grid: Grid, node: Node, model: str, on_disk: Installed, policy: Policy) -> tuple[int, int]:
    """µs per token of prompt and of answer on a node: as measured, else by the size of the weights."""
    speed, rules = grid.speeds.get(f"{node.rules.name} {model}", UNMEASURED), node.rules
    return (
        speed.prefill_us_per_token
        or on_disk.size_mb * (rules.prefill_us_per_mb or policy.prefill_us_per_mb),
        speed.decode_us_per_token or on_disk.size_mb * (rules.decode_us_per_mb or policy.decode_us_per_mb),
    )


def answer_tokens(grid: Grid, request: Request, policy: Policy) -> int:
    """Expected answer length: the model's learned mean, at most what the request allows."""
    if request.kind == "embed":
        return 0
    length = grid.answers.get(request.model)
    mean = length.milli // 1000 if length is not None else prior_tokens(grid, request.model, policy)
    return min(mean, request.num_predict) if request.num_predict else mean
