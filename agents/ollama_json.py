"""JSON as servers write it: what is none by the letter is read once more, as far as it can be read. Pure.

A mark of the byte order is skipped, and a number that cannot be (NaN, 1e999, 5,000 digits) is null.
Letters that are none (half a surrogate pair, bytes that are no UTF-8) are replaced where that is asked for:
never in an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any, TypeVar

import msgspec

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
REPLACED = "\ufffd"
"""Stands for a letter that was none."""
DIGITS_MAX = 40
an_object = msgspec.json.Decoder(dict[str, Any]).decode
"""Decodes an object, whatever is in it."""

T = TypeVar("T")


def read(raw: bytes, decode: Callable[[bytes], T], replace_letters: bool = False) -> T:
    """Decode JSON. Raises one of UNREADABLE, about what came."""
    try:
        return decode(raw)
    except UNREADABLE as error:
        try:
            return decode(mended(raw, "replace" if replace_letters else "strict"))
        except (*UNREADABLE, ValueError):
            raise error from None


def mended(raw: bytes, letters: str) -> bytes:
    """Return JSON by the letter. Raises ValueError or RecursionError if it is none at all."""
    text = raw.decode("utf-8-sig", letters)
    value = json.loads(
        text, strict=False, parse_int=whole, parse_float=finite, parse_constant=lambda _: None
    )
    mended = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    return mended.decode(errors=letters).encode()


def whole(digits: str) -> int | None:
    """Return a whole number; None for one that no count can be."""
    return int(digits) if len(digits) <= DIGITS_MAX else None


def finite(digits: str) -> float | None:
    """Return a number; None for one that is larger than any."""
    number = float(digits)
    return number if isfinite(number) else None
