"""Puts together the images of a request, from the parts that its client wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from orion_streams.agents.backend import RunFailedError
from orion_streams.errors import ContractError
from orion_streams.protocol import photo_parts
from orion_streams.protocol.requests_replies import CODES, RequestEntry
from orion_streams.runtime.backoff import reconnect_backoff
from orion_streams.runtime.connection import ask_one, end_if_cancelled, in_short, will_pass


class PartReader:
    """Reads the parts of requests: one a call, so that the server is never held for long."""

    def __init__(self, redis: Any, key: Callable[[str, str], str]) -> None:
        self._redis, self._key = redis, key

    async def whole(self, entry: RequestEntry, client: str) -> RequestEntry:
        """Return the request with its images in place of references. While Redis is away, wait. Raises
        RunFailedError."""
        if not entry.parts:
            return entry
        text = "".join([await self._read(self._key("parts", client), each) for each in entry.parts])

        def put(images: Sequence[str]) -> list[str]:
            return [image_of(image, text) for image in images]

        messages = [
            structs.replace(each, images=put(each.images)) if each.images else each
            for each in entry.messages or ()
        ]
        return structs.replace(
            entry,
            images=put(entry.images) if entry.images else entry.images,
            messages=messages if entry.messages else entry.messages,
        )

    async def _read(self, key: str, part: str) -> str:
        backoff = reconnect_backoff()
        while True:
            end_if_cancelled()
            try:
                rows = await ask_one(self._redis, "XRANGE", key, part, part)
            except NoPermissionError as error:
                raise RunFailedError("parts_refused", "node", in_short(error)) from error
            except (RedisError, OSError) as error:
                if will_pass(error):
                    await asyncio.sleep(backoff.compute(0))
                elif isinstance(error, ResponseError):
                    raise gone(f"{part}: {in_short(error)}") from error
                else:
                    raise
            else:
                return text_of(part, rows)


def text_of(part: str, rows: list[Any]) -> str:
    """Return what a part holds. Raises RunFailedError."""
    flat = rows[0][1] if rows else []
    data = dict(zip(flat[::2], flat[1::2], strict=True)).get(b"data", b"")
    if not data:
        raise gone(f"{part} is not there")
    if len(data) > photo_parts.PART_BYTES:
        raise gone(f"{part} has {len(data):,} bytes; at most {photo_parts.PART_BYTES:,}")
    if not data.isascii():
        raise gone(f"{part} is no base64")
    return str(data, "ascii")


def image_of(image: str, text: str) -> str:
    """Return an image: its base64, or what its reference stands for. Raises RunFailedError."""
    try:
        place = photo_parts.place_of(image)
    except ContractError as error:
        raise RunFailedError("refused", "request", str(error)) from error
    if place is None:
        return image
    if place[1] > len(text):
        raise gone(f"its parts have {len(text):,} characters, and {image} ends beyond")
    return text[slice(*place)]


def gone(what: str) -> RunFailedError:
    """Return the failure of a request whose parts are not as it says."""
    return RunFailedError("parts_gone", "request", f"{CODES['parts_gone']} {what}")
