"""Imitate Go, in which the real server is written, where a client sees it: JSON, times, durations.

Error texts are Go's where they were recorded; the others only say what is wrong.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from orion_streams.demo.ollama.engine import JsonObject, Refusal

_ESCAPED = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
_DURATION_PART = re.compile(r"([\d.]+)([^\d.]+)")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "bool": bool,
    "int": int,
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
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def decode(raw: bytes, *, when_empty: str) -> Any:
    """Decode the first JSON value of a body; ignore what follows it.

    Raises Refusal 400, with `when_empty` for an empty body.
    """
    text = raw.decode(errors="replace").lstrip(" \t\r\n")
    if not text:
        raise Refusal(400, when_empty)
    try:
        return _DECODER.raw_decode(text)[0]
    except json.JSONDecodeError as error:
        cut_short = error.msg.startswith("Unterminated string") or not text[error.pos :].strip()
        raise Refusal(400, "unexpected EOF" if cut_short else f"invalid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise Refusal(400, f"invalid JSON: {error}") from error


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
    another type than listed; types are Go's."""
    if not isinstance(body, dict):
        raise Refusal(400, f"json: cannot unmarshal {_kind(body)} into Go value of type {struct}")
    struct_name = struct.rpartition(".")[2]
    for key, value in body.items():
        wanted = fields.get(key)
        if wanted and value is not None and not _fits(value, wanted):
            field = f"Go struct field {struct_name}.{key} of type {wanted}"
            raise Refusal(400, f"json: cannot unmarshal {_kind(value)} into {field}")
    return {key: value for key, value in body.items() if value is not None}


def _fits(value: object, wanted: str) -> bool:
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
    if not _DURATION.fullmatch(text):
        raise Refusal(400, f"time: invalid duration {json.dumps(text, ensure_ascii=False)}")
    total = sum(float(amount) * _UNIT_S[unit] for amount, unit in _DURATION_PART.findall(text))
    return -total if text.startswith("-") else total
