"""One HTTP call: a request of the grid while its client waits, and its answer in the client's API.

Whoever streams gets a proper status if the request is refused within the first second, then 200, and a sign
of life every ten seconds until the first piece. Whoever does not waits for the true status. A client that
goes away cancels its request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web
from msgspec import Struct

from orion_streams.agents.gateway_http import away, failed, response_of, write
from orion_streams.client.calls import RequestError
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError, OrionError
from orion_streams.gateway.answers import Dialect, Line
from orion_streams.gateway.continuation import Continuation
from orion_streams.gateway.failures import refusal_of
from orion_streams.gateway.grid_answers import end_of, headers_of, is_empty, line_of, whole_of
from orion_streams.gateway.refusal import Refusal
from orion_streams.protocol.answer_events import Answer, AnswerEvent, Piece, Restarted

log = logging.getLogger("orion.gateway")

FIRST_S, HEARTBEAT_S, CANCEL_S = 1.0, 10.0, 10.0
"""How long a refusal may take to be a status; between signs of life; for a cancel to be sent."""


class Request(Struct, frozen=True):
    """A request of the grid that is about to be sent."""

    client: AsyncClient
    id: str
    fields: dict[str, Any]


class Events:
    """The events of a request, one at a time with a limit to the wait. Leaving before the last one cancels
    the request."""

    def __init__(self, request: Request) -> None:
        self._request, self._ended, self._is_away = request, False, False
        self._events: AsyncGenerator[AnswerEvent, None] = request.client.send(request.fields, id=request.id)
        self._next: asyncio.Task[AnswerEvent] | None = None

    async def take(self, timeout_s: float | None = None) -> AnswerEvent | None:
        """Return the next event; None if there is none within `timeout_s`. Raise Refusal for an end without
        an answer."""
        try:
            event = await (anext(self._events) if timeout_s is None else self._within(timeout_s))
        except RequestError as error:
            self._ended = True
            raise refusal_of(error.code, error.message, str(self._request.fields["model"])) from error
        except BackendError as error:
            self._is_away = True
            raise away(error) from error
        self._ended = isinstance(event, Answer)  # None: not yet
        return event

    async def _within(self, timeout_s: float) -> AnswerEvent | None:
        """Return the next event; what does not come in time goes on coming."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        done, _ = await asyncio.wait({self._next}, timeout=timeout_s)
        if not done:
            return None
        task, self._next = self._next, None
        return task.result()

    async def close(self) -> None:
        """End it. What has no end yet is cancelled in the grid, whatever becomes of the task that asks; a
        server that is away is not waited for."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._events.aclose()
        if not self._ended:
            cancelling = asyncio.create_task(cancel(self._request.client, self._request.id))
            CANCELS.add(cancelling)
            cancelling.add_done_callback(CANCELS.discard)
            if not self._is_away:
                await asyncio.shield(cancelling)


CANCELS: set[asyncio.Task[None]] = set()
"""Cancels that are being sent."""


async def cancel(client: AsyncClient, request_id: str) -> None:
    """Cancel a request that nobody waits for any more."""
    try:
        async with asyncio.timeout(CANCEL_S):
            await client.cancel(request_id)
    except (TimeoutError, OrionError) as error:
        log.warning("%s could not be cancelled: %s", request_id, error or "no answer")


async def whole_answer(request: Request) -> Answer:
    """Return the answer to a request that does not stream. Raise Refusal."""
    events = Events(request)
    try:
        while not isinstance(event := await events.take(), Answer):
            pass
        return event
    finally:
        await events.close()


async def answered_whole(request: Request, dialect: Dialect) -> web.Response:
    """Wait for the answer, and write it in one piece. Raise Refusal."""
    began_s = time.monotonic()
    answer = await whole_answer(request)
    line = whole_of(answer, time.time_ns(), passed_ms(began_s))
    return response_of(dialect.whole(line), headers_of(answer))


async def answered_as_stream(http: web.Request, request: Request, dialect: Dialect) -> web.StreamResponse:
    """Write the answer as it comes. Raise Refusal if it is refused before anything was written."""
    began_s, events = time.monotonic(), Events(request)
    try:
        first = await first_of(events)
        response = web.StreamResponse(
            headers={
                "Content-Type": dialect.stream_type,
                "X-Orion-Id": request.id,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        out = Outgoing(response, dialect, began_s)
        await response.prepare(http)
        try:
            await pour(out, events, first)
        except Refusal as refusal:
            await out.write(dialect.broken(refusal))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            await out.write(dialect.broken(failed(http, error)))
        await response.write_eof()
        return response
    finally:
        await events.close()


async def first_of(events: Events) -> AnswerEvent | None:
    """Wait up to FIRST_S for the first piece, or the end. Raise Refusal."""
    until_s = time.monotonic() + FIRST_S
    while (left_s := until_s - time.monotonic()) > 0:
        event = await events.take(left_s)
        if isinstance(event, Piece | Answer):
            return event
    return None


class Outgoing:
    """A stream to a client, which hears something at least every HEARTBEAT_S."""

    def __init__(self, response: web.StreamResponse, dialect: Dialect, began_s: float) -> None:
        self._response, self.dialect, self.began_s = response, dialect, began_s
        self._written_s = time.monotonic()

    @property
    def left_s(self) -> float:
        """How long it may stay silent now."""
        return max(self._written_s + HEARTBEAT_S - time.monotonic(), 0.0)

    async def write(self, raw: bytes) -> None:
        """Write to the client. Raise ConnectionResetError if it does not take it."""
        await write(self._response, raw)
        self._written_s = time.monotonic()

    async def stay_heard(self) -> None:
        """Give a sign of life if nothing else was written for long enough."""
        if not self.left_s:
            await self.write(self.dialect.heartbeat(time.time_ns()))


async def pour(out: Outgoing, events: Events, event: AnswerEvent | None) -> None:
    """Write an answer from its event `event` on. Raise Refusal if it does not come to its end."""
    sent = Continuation()
    while True:
        match event:
            case Piece():
                piece = sent.take(event)
                if not is_empty(piece):
                    await out.write(out.dialect.part(line_of(piece, time.time_ns())))
            case Restarted():
                sent.restart()
            case Answer():
                await out.write(end_lines(sent, event, out.dialect, out.began_s))
                return
        await out.stay_heard()  # also while a new attempt says again what was sent
        event = await events.take(out.left_s)


def end_lines(sent: Continuation, answer: Answer, dialect: Dialect, began_s: float) -> bytes:
    """Return the last line of a stream, and before it what pieces did not say. Raise Refusal if the answer
    is not the one that was begun."""
    whole = Piece(answer.text, answer.attempt, answer.thinking, tuple(answer.tool_calls))
    sent.restart()
    rest = sent.take(whole)
    if sent.is_behind:
        raise Refusal(502, "the answer ended before what was sent of it: ask again")
    now_ns = time.time_ns()
    before = b"" if is_empty(rest) else dialect.part(line_of(rest, now_ns))
    end: Line = end_of(answer, now_ns, passed_ms(began_s))
    return before + dialect.part(end)


def passed_ms(since_s: float) -> int:
    """Return the ms since a moment of the monotonic clock."""
    return round((time.monotonic() - since_s) * 1000)
