"""Images too large for an entry: their base64 is written in parts, and a request refers to it. Pure.

A client writes `data` fields of at most PART_BYTES into `parts:<client>`, names their ids in its request's
`parts`, and says where an image stands `parts:FROM-TO`: the characters from FROM up to, but without, TO of
all parts joined. In base64 neither `:` nor `-` occurs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from orion_streams.errors import ContractError

PART_BYTES = 256 * 1024
MAX_PARTS = 32
PARTS_WAIT_MS = 60_000
"""So long parts wait for the request that names them."""
MAX_BYTES = PART_BYTES * MAX_PARTS
INLINE_BYTES = 64 * 1024
"""Images of so many bytes in all stay in our client's entry."""
PartId = Annotated[str, Meta(pattern=r"\A[0-9]{1,19}-[0-9]{1,19}\Z")]

_MARK = "parts:"
_REFERENCE = re.compile(_MARK + r"([0-9]{1,8})-([0-9]{1,8})")


def place_of(image: str) -> tuple[int, int] | None:
    """Return from where to where an image stands in the parts; None for one in base64. Raises ContractError
    bad_field."""
    if not image.startswith(_MARK):
        return None
    found = _REFERENCE.fullmatch(image)
    begin, end = (int(found[1]), int(found[2])) if found else (0, 0)
    if begin >= end:
        raise ContractError("bad_field", f"images: expected {_MARK}FROM-TO with FROM below TO")
    return begin, end


def check_places(images: Iterable[str], parts: Sequence[str]) -> None:
    """Raise ContractError bad_field for an image beyond the parts, or for images that are larger in all."""
    places = [place for image in images if (place := place_of(image)) is not None]
    most = len(parts) * PART_BYTES
    if any(end > most for _, end in places):
        raise ContractError("bad_field", f"images: an image beyond the {len(parts)} parts")
    if sum(end - begin for begin, end in places) > most:
        raise ContractError("bad_field", "images: more than their parts hold")


def size_of(parts: Sequence[str]) -> int:
    """Return the bytes that parts count as: no part is larger, so nobody has to read them."""
    return len(parts) * PART_BYTES


def with_images(values: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a request's fields with each image changed, those of its messages too."""
    values = dict(values)
    if isinstance(images := values.get("images"), list | tuple):
        values["images"] = [change(image) for image in images]
    if isinstance(messages := values.get("messages"), list | tuple):
        values["messages"] = [
            {**each, "images": [change(image) for image in each["images"]]}
            if isinstance(each, Mapping) and isinstance(each.get("images"), list | tuple)
            else each
            for each in messages
        ]
    return values


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a request's fields with references instead of images, and the parts to be written before it;
    the fields as they are and no parts for images of at most INLINE_BYTES in all. Raises ContractError
    too_large."""
    images: list[str] = []
    size = 0

    def place(image: Any) -> Any:
        nonlocal size
        text = base64.b64encode(image).decode() if isinstance(image, bytes) else image
        if not isinstance(text, str) or not text.isascii() or not text:
            return image  # whoever reads it refuses it
        images.append(text)
        begin, size = size, size + len(text)
        return f"{_MARK}{begin}-{size}"

    referring = with_images(values, place)
    if size > MAX_BYTES:
        raise ContractError("too_large", f"images of {size:,} bytes in base64; at most {MAX_BYTES:,}")
    if size <= INLINE_BYTES or "parts" in values:
        return dict(values), ()
    joined = "".join(images)
    return referring, tuple(joined[at : at + PART_BYTES] for at in range(0, size, PART_BYTES))
