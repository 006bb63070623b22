"""The gateway's connections: at most so many, and none that never asks."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from msgspec import Struct

HEAD_S, MADE_S, SWEEP_S = 20.0, 1.0, 5.0
"""So long a connection may take for the head of its first request, and for its end; to be made at all; how
often that is looked at."""
TURNED_AWAY = 64
"""So many connections at a time are told why; further ones are only cut."""
FULL = b'{"error":"the gateway has as many connections as it may (gateway.max_connections)"}'
HEAD = (
    "HTTP/1.1 503 Service Unavailable",
    "Content-Type: application/json",
    "Retry-After: 5",
    "Connection: close",
    f"Content-Length: {len(FULL)}",
)


class TooMany(asyncio.Protocol):
    """Turns a connection away, once it has asked: an answer to who is still sending would be lost."""

    told = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what listens is TCP
        self._transport = transport
        TooMany.told += 1
        if TooMany.told > TURNED_AWAY:
            transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(MADE_S, self._answer)

    def data_received(self, data: bytes) -> None:
        self._answer()

    def connection_lost(self, error: Exception | None) -> None:
        TooMany.told -= 1

    def _answer(self) -> None:
        self._timer.cancel()
        if not self._transport.is_closing():
            self._transport.write("\r\n".join((*HEAD, "", "")).encode() + FULL)
            self._transport.close()


class Connection(Struct):
    """One connection. `transport`: since its first request; `closing_s`: since when it is being closed."""

    born_s: float
    transport: asyncio.Transport | None = None
    closing_s: float | None = None

    def is_gone(self, handler: RequestHandler) -> bool:
        """Whether nothing is left of it; what was written and not taken keeps it."""
        if self.transport is not None:
            return bool(self.transport.get_extra_info("socket").fileno() < 0)
        if handler.transport is None:  # it is still to be made, or was lost before it asked
            return asyncio.get_running_loop().time() - self.born_s > MADE_S
        return handler.transport.is_closing()


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
        gone = [each for each, row in self._rows.items() if row.is_gone(each)]
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
