"""Imitate Go, in which the real server is written, where a client sees it: JSON, times, durations.

Error texts are Go's where they were recorded; the others only say what is wrong.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from orion_streams.gateway.refusal import JsonObject, Refusal

_ESCAPED = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
_LONGEST_DURATION = 40
_DURATION_PART = re.compile(r"([\d.]+)([^\d.]+)")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DEPTH = 100
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "bool": bool,
    "float64": (int, float),
}


def encode(value: object) -> bytes:
    """Encode as compact JSON, with the special characters of HTML escaped."""
    raw = msgspec.json.encode(value)
    for plain, escaped in _ESCAPED.items():
        raw = raw.replace(plain, escaped)
    return raw


def timestamp(at_ns: int) -> str:
    """Format nanoseconds since 1970 as UTC, without trailing zeros."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    minutes, second = divmod(seconds, 60)
    days, minute_of_day = divmod(minutes, 1440)
    hour, minute = divmod(minute_of_day, 60)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{_date(days)}T{hour:02d}:{minute:02d}:{second:02d}{fraction}Z"


def _date(days: int) -> str:
    """Format a day since 1970: counted in eras of 400 years, whose years begin in March, so that a leap day
    ends one."""
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day_of_month = day - (153 * month + 2) // 5 + 1
    return f"{400 * era + year + (month > 9):04d}-{(month + 2) % 12 + 1:02d}-{day_of_month:02d}"


def decode(raw: bytes, *, when_empty: str) -> Any:
    """Decode the first JSON value of a body; ignore what follows it.

    Raises Refusal 400, with `when_empty` for an empty body.
    """
    text = raw.decode(errors="replace").lstrip(" \t\r\n")
    if not text:
        raise Refusal(400, when_empty)
    try:
        value = _DECODER.raw_decode(text)[0]
    except json.JSONDecodeError as error:
        cut_short = error.msg.startswith("Unterminated string") or not text[error.pos :].strip()
        raise Refusal(400, "unexpected EOF" if cut_short else f"invalid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise Refusal(400, f"invalid JSON: {error}") from error
    if text.count("[") + text.count("{") > _MAX_DEPTH and _too_deep(value):
        raise Refusal(400, "invalid JSON: exceeded max depth")
    return _without_half_characters(value) if _HALF_CHARACTER.search(text) else value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        held = [inner for outer in level for inner in _members(outer)]
        level = [inner for inner in held if isinstance(inner, list | dict)]
    return bool(level)


def _members(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _without_half_characters(value: Any) -> Any:
    """Replace each half of a surrogate pair that stands alone, which UTF-8 cannot hold."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_half_characters(inner) for inner in value]
        case dict():
            return {
                _without_half_characters(key): _without_half_characters(inner)
                for key, inner in value.items()
            }
        case _:
            return value


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits)
    return number


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else _finite(digits)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)


def check_types(body: Any, struct: str, fields: Mapping[str, str]) -> JsonObject:
    """Return the body as an object without null fields. Raises Refusal 400 for the first known field of
    another type than listed; types are Go's, but a whole number may be written with a fraction of 0."""
    if not isinstance(body, dict):
        raise Refusal(400, f"json: cannot unmarshal {_kind(body)} into Go value of type {struct}")
    struct_name = struct.rpartition(".")[2]
    for key, value in body.items():
        wanted = fields.get(key)
        if wanted and value is not None and not _fits(value, wanted):
            field = f"Go struct field {struct_name}.{key} of type {wanted}"
            raise Refusal(400, f"json: cannot unmarshal {_kind(value)} into {field}")
    return {
        key: _integers(value) if fields.get(key) in ("int", "[]int") else value
        for key, value in body.items()
        if value is not None
    }


def _integers(value: Any) -> Any:
    return [int(item) for item in value] if isinstance(value, list) else int(value)


def _fits(value: object, wanted: str) -> bool:
    if wanted == "int":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) < 2**63 and value == int(value)
    if wanted == "[]int":
        return isinstance(value, list) and all(_fits(item, "int") for item in value)
    if wanted in _TYPES:
        return isinstance(value, _TYPES[wanted]) and isinstance(value, bool) == (wanted == "bool")
    return isinstance(value, list if wanted.startswith("[]") or wanted == "api.Tools" else dict)


def _kind(value: object) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def parse_duration(text: str) -> float:
    """Parse a duration such as "1h30m" or "-1s" into seconds. Raises Refusal 400."""
    if len(text) > _LONGEST_DURATION or not _DURATION.fullmatch(text):
        raise Refusal(400, f"time: invalid duration {json.dumps(text, ensure_ascii=False)}")
    total = sum(float(amount) * _UNIT_S[unit] for amount, unit in _DURATION_PART.findall(text))
    return -total if text.startswith("-") else total
