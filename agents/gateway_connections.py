"""The gateway's connections: at most so many, and none that never asks."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from msgspec import Struct

HEAD_S, SWEEP_S = 20.0, 5.0
"""So long a connection may take for the head of its first request, and for its end; how often that is
looked at."""
FULL = b'{"error":"the gateway has as many connections as it may (gateway.max_connections)"}'
HEAD = (
    "HTTP/1.1 503 Service Unavailable",
    "Content-Type: application/json",
    "Retry-After: 5",
    "Connection: close",
    f"Content-Length: {len(FULL)}",
)


class TooMany(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what listens is TCP
        transport.write("\r\n".join((*HEAD, "", "")).encode() + FULL)
        transport.close()


class Connection(Struct):
    """One connection. `transport`: since its first request; `closing_s`: since when it is being closed."""

    born_s: float
    transport: asyncio.Transport | None = None
    closing_s: float | None = None

    def is_gone(self, handler: RequestHandler) -> bool:
        """Whether nothing is left of it; what was written and not taken keeps it."""
        if self.transport is not None:
            return bool(self.transport.get_extra_info("socket").fileno() < 0)
        return handler.transport is None or handler.transport.is_closing()


class Connections:
    """Accepts connections of `server`, at most `limit` at a time. One that has not sent the head of its
    first request within HEAD_S is closed, one that is being closed and does not take the rest within HEAD_S
    is cut; what is slow between is bounded by whoever reads and writes."""

    def __init__(self, limit: int) -> None:
        self.server: web.Server | None = None
        self._limit = limit
        self._rows: dict[RequestHandler, Connection] = {}

    def accept(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection."""
        self._forget()
        if self.server is None or len(self._rows) >= self._limit:
            return TooMany()
        handler = self.server()
        self._rows[handler] = Connection(asyncio.get_running_loop().time())
        return handler

    def asked(self, request: web.Request) -> None:
        """Note that a connection has sent a request."""
        if (row := self._rows.get(request.protocol)) is not None:
            row.transport = request.transport

    def __len__(self) -> int:
        self._forget()
        return len(self._rows)

    def _forget(self) -> None:
        """Forget connections that are gone."""
        now_s = asyncio.get_running_loop().time()
        gone = [each for each, row in self._rows.items() if now_s > row.born_s and row.is_gone(each)]
        for each in gone:
            del self._rows[each]

    async def sweep(self) -> None:
        """Close silent connections, and cut those that do not come to an end, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._forget()
            now_s = asyncio.get_running_loop().time()
            for handler, row in list(self._rows.items()):
                if row.transport is None:
                    if now_s - row.born_s > HEAD_S:
                        handler.force_close()
                elif row.transport.is_closing():
                    row.closing_s = row.closing_s or now_s
                    if now_s - row.closing_s > HEAD_S:
                        cut(row.transport)


def cut(transport: asyncio.BaseTransport | None) -> None:
    """End a connection at once: what was not taken is not kept, not by the kernel either."""
    if isinstance(transport, asyncio.Transport):
        reset = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        transport.abort()
