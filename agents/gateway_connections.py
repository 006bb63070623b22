"""The gateway's connections: at most so many, and none that never asks."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

HEAD_S, SWEEP_S = 20.0, 5.0
"""So long a connection may take for the head of its first request, and how often that is looked at."""
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


class Connections:
    """Accepts connections of `server`, at most `limit` at a time. One that has not sent the head of its
    first request within HEAD_S is closed; what is slow after that is bounded by whoever reads and
    writes."""

    def __init__(self, limit: int) -> None:
        self.server: web.Server | None = None
        self._limit = limit
        self._born_s: dict[RequestHandler, float] = {}
        self._silent: set[RequestHandler] = set()

    def accept(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection."""
        self._forget()
        if self.server is None or len(self._born_s) >= self._limit:
            return TooMany()
        handler = self.server()
        self._born_s[handler] = asyncio.get_running_loop().time()
        self._silent.add(handler)
        return handler

    def asked(self, request: web.Request) -> None:
        """Note that a connection has sent a request."""
        self._silent.discard(request.protocol)

    def __len__(self) -> int:
        self._forget()
        return len(self._born_s)

    def _forget(self) -> None:
        """Forget connections that are closed."""
        now_s = asyncio.get_running_loop().time()
        gone = [each for each, born_s in self._born_s.items() if is_closed(each) and now_s > born_s]
        for each in gone:
            del self._born_s[each]
            self._silent.discard(each)

    async def sweep(self) -> None:
        """Close silent connections, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._forget()
            latest_s = asyncio.get_running_loop().time() - HEAD_S
            for each in [each for each in self._silent if self._born_s[each] < latest_s]:
                each.force_close()


def is_closed(handler: RequestHandler) -> bool:
    """Whether a connection is gone."""
    return handler.transport is None or handler.transport.is_closing()
