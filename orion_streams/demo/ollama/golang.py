"""The habits of the language that the real server is written in, where a client can see them.

Error texts of its JSON decoder and of its durations, its time format, its JSON encoding.
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
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")
_EXPECTATIONS = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
}


def encode(value: object) -> bytes:
    """Compact JSON, with the characters escaped that mean something in HTML."""
    raw = msgspec.json.encode(value)
    for plain, escaped in _ESCAPED.items():
        raw = raw.replace(plain, escaped)
    return raw


def timestamp(at_ns: int) -> str:
    """A time, given in nanoseconds since 1970: UTC, without trailing zeros."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def decode(raw: bytes, *, when_empty: str) -> Any:
    """The first JSON value of a body; what follows it is not looked at.

    Raises Refusal 400, with `when_empty` where there is nothing.
    """
    text = raw.decode(errors="replace").lstrip(" \t\r\n")
    if not text:
        raise Refusal(400, when_empty)
    try:
        return _DECODER.raw_decode(text)[0]
    except json.JSONDecodeError as error:
        raise Refusal(400, _syntax_error(text, error)) from error
    except RecursionError as error:
        raise Refusal(400, "exceeded max depth") from error


def _no_constant(name: str) -> object:
    raise Refusal(400, f"invalid character '{name[0]}' looking for beginning of value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Refusal(400, f"json: cannot unmarshal number {digits} into Go value of type float64")
    return number


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else _finite(digits)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].lstrip(" \t\r\n")
    unfinished = error.msg.startswith("Unterminated string")
    if not rest or unfinished or rest in {"t", "tr", "tru", "f", "fa", "fal", "fals", "n", "-"}:
        return "unexpected EOF"
    expectation = _EXPECTATIONS.get(error.msg, "in string literal")
    return f"invalid character {_quoted(rest[0])} {expectation}"


def _quoted(character: str) -> str:
    return {"'": "'\\''", '"': "'\"'"}.get(character, f"'{character}'")


def check_types(body: Any, struct: str, fields: Mapping[str, str]) -> JsonObject:
    """The body as an object whose known fields have the types listed; null counts as left out.

    Raises Refusal 400 for the first that has not. Types are Go's; an empty one takes anything.
    """
    if not isinstance(body, dict):
        raise Refusal(400, f"json: cannot unmarshal {_kind(body)} into Go value of type {struct}")
    struct_name = struct.rpartition(".")[2]
    for key, value in body.items():
        wanted = fields.get(key)
        if wanted and value is not None and not _fits(value, wanted):
            kind = _kind(value, number_too=wanted == "int")
            raise Refusal(
                400,
                f"json: cannot unmarshal {kind} into Go struct field {struct_name}.{key} of type {wanted}",
            )
    return {key: value for key, value in body.items() if value is not None}


def _fits(value: object, wanted: str) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float64":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "[]int":
            return isinstance(value, list) and all(_fits(item, "int") for item in value)
        case _:
            listed = wanted.startswith("[]") or wanted == "api.Tools"
            return isinstance(value, list if listed else dict)


def _kind(value: object, *, number_too: bool = False) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return f"number {json.dumps(value)}" if number_too else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def parse_duration(text: str) -> float:
    """Seconds in a duration such as "1h30m" or "-1s". Raises Refusal 400."""
    quoted = json.dumps(text, ensure_ascii=False)
    sign, rest = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    if rest == "0":
        return 0.0
    if not rest or len(text) - len(rest) > 1:
        raise Refusal(400, f"time: invalid duration {quoted}")
    total = 0.0
    position = 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None:
            raise Refusal(400, f"time: invalid duration {quoted}")
        amount, unit = part.groups()
        if not unit:
            raise Refusal(400, f"time: missing unit in duration {quoted}")
        if unit not in _UNIT_S:
            unknown = json.dumps(unit, ensure_ascii=False)
            raise Refusal(400, f"time: unknown unit {unknown} in duration {quoted}")
        total += float(amount) * _UNIT_S[unit]
        position = part.end()
    return sign * total
