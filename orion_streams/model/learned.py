"""What folds and decisions share of what the log teaches: keys, decay, priors."""

from __future__ import annotations

from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Demand, FootprintKey, Grid


def footprint_key(digest: str, num_ctx: int, slots: int) -> FootprintKey:
    """Return what a runner's memory depends on."""
    return digest, num_ctx, slots


def decayed(demand: Demand, at_ms: int, half_ms: int) -> int:
    """Return the demand at a time: halved per `half_ms`, linear in between, in integers."""
    halves, rest_ms = divmod(max(at_ms - demand.at_ms, 0), half_ms)
    milli = demand.milli >> min(halves, 63)
    return milli - milli * rest_ms // (2 * half_ms)


def prior_tokens(grid: Grid, model: str) -> int:
    """Return the expected answer of a model that has not answered yet, in tokens."""
    return grid.models.get(model, NO_RULES).prior_tokens or grid.policy.prior_tokens
