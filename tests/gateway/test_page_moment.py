"""Which moment is meant: positions, times, times of day in any zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.gateway.page_moment import DAY_MS, Moment, days_of, moment
from orion_streams.gateway.refusal import Refusal
from orion_streams.gateway.timestamps import date_of

NOW_MS = int(datetime(2026, 11, 29, 14, 30, tzinfo=UTC).timestamp()) * 1_000
"""14:30 in UTC, 15:30 an hour east of it."""


def at(text: str) -> Moment:
    """The moment of a time as Python reads it."""
    return Moment(ms=round(datetime.fromisoformat(text).timestamp() * 1_000))


@pytest.mark.parametrize(
    ("text", "tz", "expected"),
    [
        ("17", "", Moment(position=17)),
        ("0", "60", Moment(position=0)),
        ("14:05", "", at("2026-11-29T14:05:00+00:00")),
        ("14:05", "60", at("2026-11-29T14:05:00+01:00")),
        ("14:05:09", "+60", at("2026-11-29T14:05:09+01:00")),
        ("9:05", "-300", at("2026-11-29T09:05:00-05:00")),
        ("15:00", "", at("2026-11-28T15:00:00+00:00")),
        ("15:00", "60", at("2026-11-29T15:00:00+01:00")),
        ("14.05", "60", at("2026-11-29T14:05:00+01:00")),
        ("11-29 14:05:09", "60", at("2026-11-29T14:05:09+01:00")),
        ("11-29 15:31", "60", at("2025-11-29T15:31:00+01:00")),
        ("12-31 23:59", "", at("2025-12-31T23:59:00+00:00")),
        ("1-2 3:04", "", at("2026-01-02T03:04:00+00:00")),
        ("23:59", "720", at("2026-11-29T23:59:00+12:00")),
        ("02:31", "720", at("2026-11-29T02:31:00+12:00")),
        ("2026-11-29T14:05", "60", at("2026-11-29T14:05:00+01:00")),
        ("2026-11-29 14:05:30", "", at("2026-11-29T14:05:30+00:00")),
        ("2026-11-29T14:05:30.25Z", "60", at("2026-11-29T14:05:30.250+00:00")),
        ("2026-11-29T14:05:30-03:30", "60", at("2026-11-29T14:05:30-03:30")),
        ("2024-02-29T00:00+0100", "", at("2024-02-29T00:00:00+01:00")),
        ("2026-11-29T14:05+24:00", "", at("2026-11-28T14:05:00+00:00")),
    ],
)
def test_a_moment_is_a_position_or_a_time(text: str, tz: str, expected: Moment) -> None:
    """A time of day is the last one that was, on the clock of who asks."""
    assert moment(text, tz, NOW_MS) == expected


@pytest.mark.parametrize(
    ("text", "tz"),
    [
        ("13-01 14:05", ""), ("11-29", ""),
        ("\u0662:\u0661\u0665", ""), ("\u0662", ""),
        ("", ""), ("x", ""), ("-5", ""), ("1" * 16, ""), ("24:00", ""), ("12:60", ""), ("12:00:60", ""),
        ("12", "x"),
        ("12:00", "1441"), ("12:00", "99999"), ("12:00", "1.5"), ("2026-02-29T00:00", ""),
        ("2026-13-01T00:00", ""),
        ("2026-00-01T00:00", ""), ("2026-01-00T00:00", ""), ("2026-01-01T24:00", ""),
        ("1969-12-31T00:00Z", ""), ("12:00\n", ""),
        ("2026-11-29T14:05+99:99", ""), ("2026-11-29T14:05-24:01", ""),
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text: str, tz: str) -> None:
    """400, with what was expected."""
    with pytest.raises(Refusal, match="expected") as refused:
        moment(text, tz, NOW_MS)
    assert refused.value.status == 400


def test_a_rare_day_wants_its_year() -> None:
    """The form without a year would not help."""
    with pytest.raises(Refusal, match="name its year"):
        moment("02-29 14:05", "", NOW_MS)


@given(st.integers(0, 2_900_000))
def test_days_are_counted_as_they_are_dated(days: int) -> None:
    """The inverse of `date_of`, and what Python's calendar says."""
    year, month, day = date_of(days)
    assert days_of(year, month, day) == days
    assert (year, month, day) == (datetime(1970, 1, 1) + timedelta(days)).timetuple()[:3]


@given(st.integers(0, 23), st.integers(0, 59), st.integers(-1_440, 1_440), st.integers(DAY_MS * 3, 2**41))
def test_a_time_of_day_is_never_in_the_future(hour: int, minute: int, tz: int, now_ms: int) -> None:
    """Nor more than a day ago."""
    found = moment(f"{hour}:{minute:02}", str(tz), now_ms)
    assert found.ms is not None
    assert 0 <= now_ms - found.ms < DAY_MS
