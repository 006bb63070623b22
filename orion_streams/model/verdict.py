"""What a decision found on one node: a filter, or a cost in terms."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.model.vocabulary import Filter


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the decision found on one node: a filter with the value that tripped it and its limit, or
    the expected time to the finished answer, `cost_ms`, broken into terms (all ms).

    drain: what the node does first; load; evict: what that load costs others, by the models that must go
    and, for a further copy of a model, by the place that it takes; prefill and decode; cached: the part of
    prefill that a session saves; heat: slow-down near the mark; spill: off its tier; retry: failed here
    before; late: old health. `reserve_mb`: memory that a load takes.
    """

    node: str
    filter: Filter = Filter.NONE
    value: int = 0
    limit: int = 0
    cost_ms: int = 0
    drain_ms: int = 0
    load_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    spill_ms: int = 0
    retry_ms: int = 0
    free_slots: int = 0
    evict_ms: int = 0
    cached_ms: int = 0
    heat_ms: int = 0
    late_ms: int = 0
    reserve_mb: int = 0
    evicts: tuple[str, ...] = ()

    @property
    def run_ms(self) -> int:
        """Return the time of the request itself on the node: load, prefill and decode, with heat."""
        return self.load_ms + self.prefill_ms - self.cached_ms + self.decode_ms + self.heat_ms


TERMS = ("drain", "load", "evict", "prefill", "cached", "decode", "heat", "spill", "retry", "late")
"""The terms of a cost in the order of routing; `cached` is subtracted."""
