"""What folds and decisions share of what the log teaches: keys, decay, priors."""

from __future__ import annotations

from orion_streams.model.policy import NO_RULES, NodeRules, Policy
from orion_streams.model.state import Demand, FootprintKey, Grid, Speed


def footprint_key(digest: str, num_ctx: int, slots: int) -> FootprintKey:
    """Return what a runner's memory depends on."""
    return digest, num_ctx, slots


def decayed(demand: Demand, at_ms: int, half_ms: int) -> int:
    """Return the demand at a time: halved per `half_ms`, linear in between, in integers."""
    return halved(demand.milli, at_ms - demand.at_ms, half_ms)


def halved(milli: int, age_ms: int, half_ms: int) -> int:
    """Return what is left of an amount after some time."""
    halves, rest_ms = divmod(max(age_ms, 0), half_ms)
    milli >>= min(halves, 63)
    return milli - milli * rest_ms // (2 * half_ms)


def prior_speed(policy: Policy, rules: NodeRules, size_mb: int) -> Speed:
    """Return how fast a node should load, read and write with so many MB of weights."""
    return Speed(
        size_mb * (rules.load_us_per_mb or policy.load_us_per_mb) // 1000,
        size_mb * (rules.prefill_us_per_mb or policy.prefill_us_per_mb),
        size_mb * (rules.decode_us_per_mb or policy.decode_us_per_mb),
    )


def prior_tokens(grid: Grid, model: str) -> int:
    """Return the expected answer of a model that has not answered yet, in tokens."""
    return grid.models.get(model, NO_RULES).prior_tokens or grid.policy.prior_tokens
