"""Write answers to the wire, in any dialect."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from aiohttp import web

from orion_streams.demo.ollama import golang
from orion_streams.demo.ollama.answer_lines import Call, Line, answer, gathered
from orion_streams.demo.ollama.engine import Refusal
from orion_streams.demo.ollama.simulated_node import Node


class Dialect(Protocol):
    """Writes a whole answer and a refusal of one API."""

    def whole(self, line: Line) -> web.Response: ...

    def refused(self, refusal: Refusal, *, streaming: bool = False) -> web.Response: ...


class StreamDialect(Dialect, Protocol):
    """Also writes a line of an answer, and an error in the middle of it."""

    stream_type: str

    def part(self, line: Line) -> bytes: ...

    def broken(self, message: str) -> bytes: ...


def json_response(
    value: object, status: int = 200, *, charset: bool = True, newline: bool = False
) -> web.Response:
    """Make a JSON response with the content type and the last byte of the real server."""
    body = golang.encode(value) + (b"\n" if newline else b"")
    kind = "application/json; charset=utf-8" if charset else "application/json"
    return web.Response(body=body, status=status, headers={"Content-Type": kind})


async def reply(request: web.Request, node: Node, call: Call, dialect: StreamDialect) -> web.StreamResponse:
    """Run a call and write its answer. Raises ConnectionDroppedError."""
    if not call.stream or call.job is None:
        return await reply_whole(node, call, dialect)
    try:
        async with aclosing(answer(node, call)) as lines:
            return await _stream(request, lines, dialect)
    except Refusal as refusal:
        return dialect.refused(refusal, streaming=True)


async def reply_whole(node: Node, call: Call, dialect: Dialect) -> web.Response:
    """Run a call and answer in one piece. Raises ConnectionDroppedError."""
    try:
        async with aclosing(answer(node, call)) as lines:
            return dialect.whole(await gathered(lines))
    except Refusal as refusal:
        return dialect.refused(refusal)


async def _stream(
    request: web.Request, lines: AsyncGenerator[Line, None], dialect: StreamDialect
) -> web.StreamResponse:
    """Stream lines. Raises a Refusal that comes before the first one; a later one is written as a line."""
    first = await anext(lines, None)
    response = web.StreamResponse(headers={"Content-Type": dialect.stream_type})
    await response.prepare(request)
    try:
        if first is not None:
            await response.write(dialect.part(first))
        async for line in lines:
            await response.write(dialect.part(line))
    except Refusal as refusal:
        await response.write(dialect.broken(refusal.message))
    await response.write_eof()
    return response
