"""How answers get onto the wire, whatever their dialect."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from aiohttp import web

from orion_streams.demo.ollama import golang
from orion_streams.demo.ollama.answer_lines import Call, Line, answer, gathered
from orion_streams.demo.ollama.engine import Refusal
from orion_streams.demo.ollama.simulated_node import Node


class Dialect(Protocol):
    """How one API writes a whole answer and a refusal."""

    def whole(self, line: Line) -> web.Response: ...

    def refused(self, refusal: Refusal, *, streaming: bool = False) -> web.Response: ...


class StreamDialect(Dialect, Protocol):
    """How one API also writes a line of an answer, and an error in the midst of it."""

    stream_type: str

    def part(self, line: Line) -> bytes: ...

    def broken(self, message: str) -> bytes: ...


def json_response(
    value: object, status: int = 200, *, charset: bool = True, newline: bool = False
) -> web.Response:
    """JSON with the content type and the last byte as the real server has them there."""
    body = golang.encode(value) + (b"\n" if newline else b"")
    kind = "application/json; charset=utf-8" if charset else "application/json"
    return web.Response(body=body, status=status, headers={"Content-Type": kind})


async def reply(request: web.Request, node: Node, call: Call, dialect: StreamDialect) -> web.StreamResponse:
    """Runs the call and writes its answer. Raises ConnectionDroppedError."""
    if not call.stream or call.job is None:
        return await reply_whole(node, call, dialect)
    try:
        async with aclosing(answer(node, call)) as lines:
            return await _stream(request, lines, dialect)
    except Refusal as refusal:
        return dialect.refused(refusal, streaming=True)


async def reply_whole(node: Node, call: Call, dialect: Dialect) -> web.Response:
    """Runs the call and answers in one piece. Raises ConnectionDroppedError."""
    try:
        async with aclosing(answer(node, call)) as lines:
            return dialect.whole(await gathered(lines))
    except Refusal as refusal:
        return dialect.refused(refusal)


async def _stream(
    request: web.Request, lines: AsyncGenerator[Line, None], dialect: StreamDialect
) -> web.StreamResponse:
    """Raises a Refusal that comes before the first line; a later one is written as a line."""
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
