"""Percentiles against their definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.model.percentiles import percentile


@given(st.lists(st.integers(), min_size=1, max_size=50), st.integers(1, 1000))
def test_a_percentile_is_the_least_value_that_enough_stay_below(values: list[int], permille: int) -> None:
    """In whatever order the values come, counted by hand."""
    found = percentile(values, permille)
    reached = [
        each for each in values if sum(other <= each for other in values) * 1000 >= permille * len(values)
    ]
    assert found == min(reached)


@pytest.mark.parametrize(
    ("values", "permille", "expected"),
    [(range(20, 0, -1), 950, 19), (range(20, 0, -1), 500, 10), ([7], 1, 7), ([7], 1000, 7), ([], 500, 0)],
)
def test_percentiles_by_example(values: list[int], permille: int, expected: int) -> None:
    """Of 1 to 20 the p95 is 19 and the median 10; of one value it is that; of none 0."""
    assert percentile(values, permille) == expected
