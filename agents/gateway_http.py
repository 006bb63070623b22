"""What the gateway reads from a connection and writes to it, within limits."""

from __future__ import annotations

import asyncio
import logging
import traceback

from aiohttp import HttpVersion11, web
from yarl import URL

from orion_streams.errors import BackendError
from orion_streams.gateway.access import Caller, Knock
from orion_streams.gateway.answers import HttpAnswer
from orion_streams.gateway.failures import RETRY_AFTER_S
from orion_streams.gateway.page_rows import PageCaller
from orion_streams.gateway.refusal import Refusal

log = logging.getLogger("orion.gateway")

BODY_S, WRITE_S = 60.0, 30.0
"""How long a body may take to come, or a whole answer to be taken; a client to take a piece."""
KNOCK, CALLER = web.RequestKey("knock", Knock), web.RequestKey("caller", Caller)


def caller_of(http: web.Request) -> PageCaller:
    """Return who asks, as one to whom something is shown."""
    caller = http[CALLER]
    return PageCaller(caller.client, caller.name, caller.view_only, caller.sees_all)


async def place_meant(http: web.Request) -> str | None:
    """Return the path that is served, with its query, if only slashes too many tell it from the one that
    was asked for: a client's URL of the gateway often ends with one. None if there is no such path."""
    parts = [part for part in http.rel_url.raw_path.split("/") if part]
    url = URL.build(path=f"/{'/'.join(parts)}", query_string=http.rel_url.raw_query_string, encoded=True)
    if url == http.rel_url:
        return None
    found = await http.app.router.resolve(http.clone(rel_url=url))
    return str(url) if found.http_exception is None else None


def response_of(answer: HttpAnswer, headers: dict[str, str] | None = None) -> web.Response:
    """Return a whole answer as aiohttp has it."""
    kind = {"Content-Type": answer.content_type}
    return web.Response(
        status=answer.status, body=answer.body, headers={**kind, **answer.headers, **(headers or {})}
    )


async def write(response: web.StreamResponse, raw: bytes) -> None:
    """Write to a client. Raise ConnectionResetError if it does not take it in WRITE_S: then it is gone."""
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(raw)
    except TimeoutError as error:
        raise ConnectionResetError(f"the client took nothing for {WRITE_S:g} s") from error


async def deliver(http: web.Request, response: web.StreamResponse) -> None:
    """Write an answer to its end. Raise ConnectionResetError if the client does not take it in BODY_S."""
    try:
        async with asyncio.timeout(BODY_S):
            await response.prepare(http)
            await response.write_eof()
    except TimeoutError as error:
        raise ConnectionResetError(f"the client did not take the answer for {BODY_S:g} s") from error


def failed(http: web.Request, error: Exception) -> Refusal:
    """Log where the gateway failed, in no words of the error's: they may quote a prompt."""
    log.error("%s %s failed: %s", http.method, http.path, where(error))
    return Refusal(500, "the gateway failed: its log says where")


def where(error: Exception) -> str:
    """Say where something failed, in no words of the error's."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, line {place.lineno}"


def too_large(limit: int) -> Refusal:
    """Return the refusal of a body that is too large."""
    return Refusal(413, f"the body is larger than {limit} bytes (gateway.max_body_bytes)")


async def expected(http: web.Request) -> None:
    """Tell a client that asks first to send its body, unless it is too large, as it will get to know."""
    asks = http.headers.get("Expect", "").lower() == "100-continue" and http.version >= HttpVersion11
    if asks and not is_too_large(http):
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        http.writer.output_size = 0  # nothing of the answer itself


def is_too_large(http: web.Request) -> bool:
    """Whether the body says that it is."""
    return http.content_length is not None and http.content_length > http.client_max_size


async def body_of(http: web.Request) -> bytes:
    """Return the body. Raise Refusal 400 if it cannot be unpacked, 408 if it does not come within BODY_S,
    413 if it is too large."""
    if is_too_large(http):
        raise too_large(http.client_max_size)
    try:
        async with asyncio.timeout(None if http.content.is_eof() else BODY_S):  # most are here already
            return await http.read()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_S:g} s") from None
    except web.RequestPayloadError as error:
        raise Refusal(400, "the body is not what its headers say, or was broken off") from error


def away(error: BackendError) -> Refusal:
    """Return the refusal while the grid's server does not answer. Where it stands is in the log only."""
    what = "the grid's server is away: ask again in a moment" if error.__cause__ else str(error)
    return Refusal(503, what, retry_after_s=RETRY_AFTER_S)
