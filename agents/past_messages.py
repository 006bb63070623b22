"""What the gateway and its worker for the past say to each other: frames of msgpack on pipes."""

from __future__ import annotations

import asyncio
import struct

import msgspec
from msgspec import Struct

from orion_streams.gateway.page_rows import PageCaller, Tick

LENGTH = struct.Struct(">I")
MOST_BYTES = 64_000_000


class Setup(Struct, frozen=True):
    """The first frame: the grid's server and prefix. It holds a password, so it is no argument."""

    url: str
    prefix: str


class Question(Struct, frozen=True, kw_only=True):
    """One thing to work out. `op`: recent, scan, bounds, past, why or day; at a position or a time, or at
    the end of the log. `tz`: how many minutes east of UTC the clock of who asks is."""

    op: str
    position: int | None = None
    ms: int | None = None
    tz: int = 0
    number: int = 0
    node: str = ""
    caller: PageCaller = PageCaller("")
    aliases: dict[str, str] = {}


class Reply(Struct, frozen=True):
    """What came of it: `status` 200 and the encoded answer, else a sentence."""

    status: int
    body: bytes


class Bounds(Struct, frozen=True):
    """Where the log begins and ends, and when that was written."""

    first: int
    last: int
    from_ms: int
    to_ms: int


class Scanned(Struct, frozen=True):
    """A further part of the log, read for its ticks: all that were found so far; `complete`: up to its
    end."""

    ticks: list[Tick]
    complete: bool


def frame(message: Struct) -> bytes:
    """Return a message as it goes through a pipe."""
    raw = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(raw)) + raw


async def read_frame(pipe: asyncio.StreamReader) -> bytes:
    """Return the next message's bytes. Raise IncompleteReadError at the end, ValueError for one that is
    too large."""
    [length] = LENGTH.unpack(await pipe.readexactly(LENGTH.size))
    if length > MOST_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return await pipe.readexactly(length)
