"""A page's event stream, read by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Struct

from tests.endpoint.wire import Answer, Wire, wire
from tests.helpers import WAIT_S


class Told(Struct):
    """An event: its id, and the view."""

    id: int
    view: Any


class Tab:
    """One open stream."""

    def __init__(self, line: Wire, head: dict[str, str]) -> None:
        self.line, self.headers = line, head
        self._buffer = b""

    async def next(self) -> Told:
        """The next view."""
        async with asyncio.timeout(WAIT_S):
            while True:
                while b"\n\n" not in self._buffer:
                    if not (size := int(await self.line.reader.readline(), 16)):
                        raise EOFError("the stream has ended")
                    self._buffer += await self.line.reader.readexactly(size)
                    await self.line.reader.readline()
                block, _, self._buffer = self._buffer.partition(b"\n\n")
                rows = dict(row.split(b": ", 1) for row in block.split(b"\n"))
                if b"data" in rows:
                    return Told(int(rows[b"id"]), msgspec.json.decode(rows[b"data"]))

    async def until(self, holds: Callable[[Any], object]) -> Told:
        """The first view of which this holds."""
        async with asyncio.timeout(WAIT_S):
            while not holds((told := await self.next()).view):
                pass
            return told


@asynccontextmanager
async def tab(url: str, *more: str, host: str = "", buffer_bytes: int = 0) -> AsyncIterator[Tab]:
    """A page's stream; `more`: lines of its head."""
    async with wire(url, host, buffer_bytes=buffer_bytes) as line:
        await line.send("GET /orion/v1/live HTTP/1.1", "Host: localhost", *more)
        async with asyncio.timeout(WAIT_S):
            head = (await line.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert head[0].split()[1] == "200", head
        pairs = (row.partition(":") for row in head[1:] if row)
        yield Tab(line, {name.lower(): value.strip() for name, _, value in pairs})


async def got(url: str, path: str, *more: str, method: str = "GET", host: str = "") -> Answer:
    """What a path answers."""
    async with wire(url, host) as line:
        named = any(row.startswith("Host:") for row in more)
        await line.send(f"{method} {path} HTTP/1.1", *(() if named else ("Host: localhost",)), *more)
        return await line.answer(has_body=method != "HEAD")


async def json_of(url: str, path: str, *more: str) -> Any:
    """The JSON of a path that answers 200."""
    answer = await got(url, path, *more)
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body)
