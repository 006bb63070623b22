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
from orion_streams.gateway.timestamps import date_of
from orion_streams.model.toml_values import duration_ns

_ESCAPED = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_LONGEST_DURATION = 40
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DEPTH = 100
_MAX_CONTAINERS = 100_000
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
    year, month, day = date_of(days)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{fraction}Z"


def decode(raw: bytes, *, when_empty: str) -> Any:
    """Decode the first JSON value of a body; ignore what follows it.

    Raises Refusal 400, with `when_empty` for an empty body.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decoded_as_go_does(raw, when_empty)
    if raw.count(b"{") + raw.count(b"[") > _MAX_DEPTH and not _is_bounded(value):  # else it cannot be deep
        raise Refusal(400, "invalid JSON: exceeded max depth or size")
    return value


def _decoded_as_go_does(raw: bytes, when_empty: str) -> Any:
    """Decode what is not quite JSON; it takes three times as long for a photo."""
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
    try:
        return _without_half_characters(value) if _HALF_CHARACTER.search(text) else value
    except RecursionError as error:
        raise Refusal(400, "invalid JSON: nested too deep") from error


def _is_bounded(value: Any) -> bool:
    """Tell whether a value is neither too deep nor of too many lists and objects to walk."""
    level, seen = [value], 0
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, list | dict)]
        seen += len(level)
        if not level or seen > _MAX_CONTAINERS:
            break
    return not level


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
    """Return the body as an object without null fields; null is an empty one. Raises Refusal 400 for the
    first known field of another type than listed; types are Go's, but a whole number may be written with a
    fraction of 0."""
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise Refusal(400, f"json: cannot unmarshal {_kind(body)} into Go value of type {struct}")
    body, struct_name = in_small_letters(body), struct.rpartition(".")[2]
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


def in_small_letters(value: JsonObject) -> JsonObject:
    """Return an object with its keys as Go finds them for a struct, whatever their case (.NET writes
    `Model`); one that is in small letters already counts before another."""
    small = {key: inner for key, inner in value.items() if key == key.lower()}
    return {**{key.lower(): inner for key, inner in value.items()}, **small}


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
    total_ns = duration_ns(text) if len(text) <= _LONGEST_DURATION else None
    if total_ns is None:
        raise Refusal(400, f"time: invalid duration {json.dumps(text, ensure_ascii=False)}")
    return total_ns / 1e9
