"""Percentiles of whole numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def percentile(values: Iterable[int], permille: int) -> int:
    """Return the nearest-rank percentile, a value that occurred: the least that `permille` of the values do
    not exceed. 0 if there are none; `permille` is 1 to 1000."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * permille // 1000) - 1] if ordered else 0
