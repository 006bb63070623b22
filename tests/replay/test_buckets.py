"""Down-sampling: what matters survives it, and it stays small."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.replay import buckets
from orion_streams.replay.buckets import Buckets, fit
from tests.grids import fails

VALUES = st.one_of(st.none(), st.integers(-40_000, 90_000))
SAMPLES = st.lists(st.tuples(st.integers(0, 5_000), VALUES, VALUES), min_size=1, max_size=60)
Samples = list[tuple[int, int | None, int | None]]


def sampled(samples: Samples, most: int) -> tuple[Buckets, list[tuple[int, int | None, int | None]]]:
    """The buckets of samples that are so many ms apart, and the samples with their times."""
    made, ms, timed = Buckets(2, most), 0, []
    for step_ms, one, other in samples:
        ms += step_ms
        made.add(ms, (one, other))
        timed.append((ms, one, other))
    return made, timed


def keeps_extremes(samples: Samples, most: int) -> None:
    """Every span holds exactly the lowest and the highest value of its time, and there are few spans."""
    made, timed = sampled(samples, most)
    assert len(made) <= most
    assert set(made.rows) == {ms // made.width_ms for ms, _, _ in timed}
    for key, row in made.rows.items():
        inside = [each for each in timed if each[0] // made.width_ms == key]
        for channel in (1, 2):
            values = [value for each in inside if (value := each[channel]) is not None]
            expected = [min(values), max(values)] if values else [None, None]
            assert row[2 * channel - 2 : 2 * channel] == expected


@given(SAMPLES, st.integers(1, 20))
def test_a_span_holds_its_lowest_and_highest_value(samples: Samples, most: int) -> None:
    """However much is joined: no peak and no trough is lost, none is invented."""
    keeps_extremes(samples, most)


@pytest.mark.parametrize(
    "broken",
    [
        lambda row, lows, highs: None,
        lambda row, lows, highs: row.__setitem__(slice(None), [v for v in highs for _ in range(2)]),
    ],
    ids=["the first value", "the last value"],
)
def test_a_bucket_that_drops_values_is_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[..., None]
) -> None:
    """Negative control: with the first or the last value of each span the law above does not hold."""
    monkeypatch.setattr(buckets, "widen", broken)
    samples: Samples = [(100, 1, 5), (100, 9, 1), (100, 3, 4)]
    assert fails(keeps_extremes, samples, 5)


def test_all_together_stay_within_a_budget() -> None:
    """The longest are coarsened first, and the short ones keep what they have."""
    long, short = Buckets(1, 1_000), Buckets(1, 1_000)
    for second in range(400):
        long.add(second * 1_000, (second,))
    for second in range(30):
        short.add(second * 1_000, (second,))
    fit([long, short], 150)
    assert (len(long), long.width_ms) == (100, 4_000)
    assert (len(short), short.width_ms) == (30, 1_000)
    assert max(high for _, high in long.rows.values() if high is not None) == 399
