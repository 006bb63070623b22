"""Which moment of the log is meant: a position, a time, or a time of day. Pure."""

from __future__ import annotations

import re
from contextlib import suppress

from msgspec import Struct

from orion_streams.gateway.refusal import Refusal
from orion_streams.gateway.timestamps import LAST_MS, date_of

DAY_MS = 86_400_000
MOST_DIGITS = 15
TIME = re.compile(r"(?:(\d{1,2})-(\d{1,2}) )?(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?", re.ASCII)
DATED = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(Z|[+-]\d{2}:?\d{2})?",
    re.ASCII,
)
WANTED = "expected a position (81234), a time (14:05, 14:05:30, 11-29 14:05) or 2026-11-29T14:05:00+01:00"
MOST_TZ = 24 * 60
WANTED_TZ = f"tz: expected minutes east of UTC, at most {MOST_TZ}"


class Moment(Struct, frozen=True):
    """A position, or else a time in ms of the server's clock."""

    position: int | None = None
    ms: int | None = None


def moment(text: str, tz: str, now_ms: int) -> Moment:
    """Return what `at` means. A time of day, and one of a month and day, is the last one that was: `tz`
    says how many minutes east of UTC the clock is. Raise Refusal 400."""
    minutes = offset_of(tz)
    if re.fullmatch(rf"[0-9]{{1,{MOST_DIGITS}}}", text):
        return Moment(position=int(text))
    if found := TIME.fullmatch(text):
        month, day, hour, minute, second = (int(part or 0) for part in found.groups())
        of_day_ms = checked_ms(hour, minute, second)
        here_ms = now_ms + minutes * 60_000
        then_ms = here_ms - here_ms % DAY_MS + of_day_ms
        if found[1]:
            then_ms = last_date_ms(month, day, of_day_ms, here_ms)
        elif then_ms > here_ms:
            then_ms -= DAY_MS
        return Moment(ms=max(then_ms - minutes * 60_000, 0))
    if found := DATED.fullmatch(text):
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
        if found[8]:
            minutes = 0 if found[8] == "Z" else offset_of_iso(found[8])
        days = days_of(year, month, day)
        millis = int((found[7] or "0").ljust(3, "0")[:3])
        ms = days * DAY_MS + checked_ms(hour, minute, second) + millis - minutes * 60_000
        if 0 <= ms <= LAST_MS:
            return Moment(ms=ms)
    raise Refusal(400, WANTED)


def last_date_ms(month: int, day: int, of_day_ms: int, here_ms: int) -> int:
    """Return the last such day of a year that was, on the clock of `here_ms`. Raise Refusal 400 for a day
    that neither this year nor the last one has."""
    this_year = date_of(here_ms // DAY_MS)[0]
    for year in (this_year, this_year - 1):
        with suppress(Refusal):
            then_ms = days_of(year, month, day) * DAY_MS + of_day_ms
            if then_ms <= here_ms:
                return then_ms
    is_rare = (month, day) == (2, 29)
    raise Refusal(400, "02-29 was neither this year nor last year: name its year" if is_rare else WANTED)


def offset_of(text: str) -> int:
    """Return minutes east of UTC. Raise Refusal 400."""
    if re.fullmatch(r"[+-]?\d{1,4}", text or "0"):
        return checked_offset(int(text or 0))
    raise Refusal(400, WANTED_TZ)


def checked_offset(minutes: int) -> int:
    """Return minutes east of UTC. Raise Refusal 400 for those of no clock."""
    if abs(minutes) > MOST_TZ:
        raise Refusal(400, WANTED_TZ)
    return minutes


def offset_of_iso(text: str) -> int:
    """Return the minutes of an offset such as +01:00. Raise Refusal 400."""
    digits = text[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return checked_offset(-minutes if text[0] == "-" else minutes)


def checked_ms(hour: int, minute: int, second: int) -> int:
    """Return a time of day in ms. Raise Refusal 400 for one that no clock shows."""
    if hour > 23 or minute > 59 or second > 59:
        raise Refusal(400, WANTED)
    return ((hour * 60 + minute) * 60 + second) * 1000


def days_of(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date: the inverse of `date_of`. Raise Refusal 400 for a date
    that is none."""
    shifted = year - (month <= 2)
    era = shifted // 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    year_of_era = shifted - era * 400
    days = era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
    if not 1 <= month <= 12 or date_of(days) != (year, month, day):
        raise Refusal(400, WANTED)
    return days
