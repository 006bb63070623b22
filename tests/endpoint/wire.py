"""HTTP by hand: what no client library would send, and every byte that comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from tests.contract.contract_grid import MODEL
from tests.helpers import WAIT_S

GET = ("GET / HTTP/1.1", "Host: localhost")
RUNNING = b"Ollama is running"
ECHO: dict[str, Any] = {"model": MODEL, "prompt": "Why?"}
WHOLE: dict[str, Any] = {**ECHO, "stream": False}

BODILESS = (204, 304)
"""Answers without a body, whatever their head says."""
TCP_CLOSE = 7
"""The state of a connection that was reset, in Linux's tcp_states.h."""


class Answer(Struct):
    """A whole answer; header names in lower case. `is_chunked`: how its body was framed."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_chunked: bool = False

    @property
    def error(self) -> Any:
        """What `error` says."""
        return json.loads(self.body)["error"]


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *lines: str, body: bytes = b"", end: str = "\r\n\r\n") -> None:
        """Send a head of these lines, and a body."""
        self.writer.write("\r\n".join(lines).encode() + end.encode() + body)
        await self.writer.drain()

    async def post(self, path: str, value: object, *more: str, version: str = "1.1") -> None:
        """Send JSON."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = (f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *more)
        await self.send(*head, body=body)

    async def answer(self, *, has_body: bool = True) -> Answer:
        """Read an answer by its framing; without any, to the end of the connection."""
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            answer = Answer(int(head[0].split()[1]), headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                answer.is_chunked = True
                async for chunk in self._chunks():
                    answer.body += chunk
            elif has_body and "content-length" in headers:
                answer.body = await self.reader.readexactly(int(headers["content-length"]))
            elif has_body and answer.status not in BODILESS:
                answer.body = await self.reader.read()
            return answer

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()

    async def is_closed(self) -> bool:
        """Wait for the server to close; whether nothing more came."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    @property
    def was_cut(self) -> bool:
        """Whether the other side has cut the connection, whatever is still to be read."""
        sock = self.writer.get_extra_info("socket")
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE)

    def reset(self) -> None:
        """Break off as a machine that was switched off and on does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def wire(url: str, host: str = "", *, buffer_bytes: int = 0) -> AsyncIterator[Wire]:
    """Connect. `host`: to another address of this machine; `buffer_bytes`: of the receiving socket."""
    place = urlsplit(url)
    sock = socket.socket(socket.AF_INET6 if ":" in (host or "") else socket.AF_INET)
    if buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host or place.hostname or "", place.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=buffer_bytes or 2**20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
