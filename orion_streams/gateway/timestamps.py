"""Times as clients read them: RFC 3339. Pure: a time comes in as milliseconds since 1970."""

from __future__ import annotations

LAST_MS = 253_402_300_799_999
"""The end of the year 9999, beyond which no client reads a time."""


def timestamp(unix_ms: int) -> str:
    """Return the time in UTC, with milliseconds and the offset written out: Python's fromisoformat reads
    it since 3.7."""
    day, time, millis = parts(unix_ms)
    return f"{day}T{time}.{millis:03}+00:00"


def on_clock(unix_ms: int, tz_minutes: int) -> str:
    """Return the time as a clock so many minutes east of UTC shows it: 2026-11-29 14:05:30."""
    day, time, _ = parts(unix_ms + tz_minutes * 60_000)
    return f"{day} {time}"


def parts(unix_ms: int) -> tuple[str, str, int]:
    """Return date, time of day and milliseconds of a time in UTC."""
    days, rest_ms = divmod(min(max(unix_ms, 0), LAST_MS), 86_400_000)
    year, month, day = date_of(days)
    seconds, millis = divmod(rest_ms, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{year:04}-{month:02}-{day:02}", f"{hour:02}:{minute:02}:{second:02}", millis


def date_of(days: int) -> tuple[int, int, int]:
    """Return year, month and day of so many days after 1970-01-01, in the Gregorian calendar. Years are
    counted from March, in eras of 400 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    return year + era * 400 + (month <= 2), month, day
