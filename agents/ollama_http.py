"""httpx over aiohttp, which takes twice as many requests a second; its errors become httpx's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from orion_streams.protocol.public_row import GATEWAY_SERVER

NO_OLLAMA = "is the gateway of a grid, no Ollama: mend `ollama` in the node's table of streams.toml"
NEVER_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


ANSWER_MAX_BYTES = 16_000_000


class TooLongError(httpx.RemoteProtocolError):
    """An answer has more than ANSWER_MAX_BYTES."""


async def whole(answer: httpx.Response) -> bytes:
    """Read all of an answer. Raises httpx.HTTPError."""
    blocks, size = [], 0
    async for block in answer.aiter_bytes():
        blocks.append(block)
        size += len(block)
        if size > ANSWER_MAX_BYTES:
            raise TooLongError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
    return b"".join(blocks)


@contextmanager
def errors_of_httpx() -> Iterator[None]:
    """Tell a connection that could not be made (ConnectError) from one that broke, or answered no HTTP
    (RemoteProtocolError): the transport calls both a timeout of connecting, and passes others on as they
    are."""
    try:
        yield
    except httpx.HTTPError as error:
        if isinstance(error.__cause__, NEVER_REACHED):
            raise httpx.ConnectError(str(error)) from error
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            raise httpx.RemoteProtocolError(str(error)) from error
        raise
    except (aiohttp.ClientError, ValueError) as error:
        raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error


class Body(httpx.AsyncByteStream):
    """An answer's body."""

    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with errors_of_httpx():
            async for block in self._inner:
                yield block

    async def aclose(self) -> None:
        with errors_of_httpx():
            await self._inner.aclose()


class Transport(AiohttpTransport):
    """Makes a connection for each request: a server may close an idle one just when it is used again, and
    a run must not be sent twice. A gateway is refused: its requests would come back to it."""

    def __init__(self) -> None:
        super().__init__(
            client=lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with errors_of_httpx():
            answer = await super().handle_async_request(request)
        if answer.headers.get("server") == GATEWAY_SERVER:
            await answer.aclose()
            raise httpx.ConnectError(f"{request.url.host}:{request.url.port} {NO_OLLAMA}")
        assert isinstance(answer.stream, httpx.AsyncByteStream)  # noqa: S101 - it is the transport's own
        answer.stream = Body(answer.stream)
        return answer
