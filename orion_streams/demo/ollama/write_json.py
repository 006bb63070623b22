"""Write answers to the wire."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from orion_streams.demo.ollama.answer_lines import Call, answer, gathered
from orion_streams.demo.ollama.engine import LateRefusal
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.gateway.answers import Dialect, HttpAnswer, Line, json_answer
from orion_streams.gateway.native_answers import native_error
from orion_streams.gateway.refusal import Refusal


def response_of(answered: HttpAnswer) -> web.Response:
    """Convert a value to a response."""
    headers = {**answered.headers, "Content-Type": answered.content_type}
    return web.Response(body=answered.body, status=answered.status, headers=headers)


def json_response(value: object) -> web.Response:
    """Make a JSON response as the real server does."""
    return response_of(json_answer(value))


async def reply(request: web.Request, node: Node, call: Call, dialect: Dialect) -> web.StreamResponse:
    """Run a call and write its answer. Raises ConnectionDroppedError."""
    streaming = call.stream and call.job is not None
    try:
        async with aclosing(answer(node, call)) as lines:
            if streaming:
                return await _stream(request, lines, dialect)
            return response_of(dialect.whole(await gathered(lines)))
    except Refusal as refusal:
        # a stream has its content type set before the model is asked, without a charset
        has_charset = not (streaming and isinstance(refusal, LateRefusal))
        return response_of(native_error(refusal, charset=has_charset))


async def _stream(
    request: web.Request, lines: AsyncGenerator[Line, None], dialect: Dialect
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
        await response.write(dialect.broken(refusal))
    await response.write_eof()
    return response
