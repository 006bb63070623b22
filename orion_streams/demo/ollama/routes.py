"""The routes that run a model: native ones, and those under /v1."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from orion_streams.demo.ollama import openai_requests, other_v1, validate
from orion_streams.demo.ollama.embed import embed, embedded, embeddings
from orion_streams.demo.ollama.engine import Refusal
from orion_streams.demo.ollama.native_api import NativeDialect, chat_call, generate_call
from orion_streams.demo.ollama.openai_answers import OpenAIDialect, embedding_list
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import reply, reply_whole


class Routes:
    """One handler for each route. The middleware answers a Refusal in the form of its API."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = validate.generate_request(await _json(request))
        call = generate_call(self._node, body)
        return await reply(request, self._node, call, NativeDialect("generate", call.name))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = validate.chat_request(await _json(request))
        call = chat_call(self._node, body)
        return await reply(request, self._node, call, NativeDialect("chat", call.name))

    async def embed(self, request: web.Request) -> web.Response:
        body = validate.embed_request(await _json(request))
        return await embed(self._node, body)

    async def embeddings(self, request: web.Request) -> web.Response:
        body = validate.embedding_request(await _json(request))
        return await embeddings(self._node, body)

    async def v1_chat(self, request: web.Request) -> web.StreamResponse:
        native, usage = openai_requests.chat_request(await request.read())
        with wrapped():
            call = chat_call(self._node, validate.chat_request(native))
        return await reply(request, self._node, call, OpenAIDialect(call.name, chat=True, usage=usage))

    async def v1_completions(self, request: web.Request) -> web.StreamResponse:
        native, usage = openai_requests.completion_request(await request.read())
        with wrapped():
            call = generate_call(self._node, validate.generate_request(native))
        return await reply(request, self._node, call, OpenAIDialect(call.name, chat=False, usage=usage))

    async def v1_embeddings(self, request: web.Request) -> web.Response:
        native, packed = openai_requests.embeddings_request(await request.read())
        with wrapped():
            texts = validate.embed_inputs(native)
            done = await embedded(self._node, validate.embed_request(native), texts)
        return embedding_list(native["model"], done, packed=packed)

    async def v1_responses(self, request: web.Request) -> web.Response:
        native, body = other_v1.responses_request(await request.read())
        with wrapped():
            call = chat_call(self._node, validate.chat_request(native))
        return await reply_whole(self._node, call, other_v1.ResponsesDialect(call.name, body))

    async def v1_messages(self, request: web.Request) -> web.Response:
        native = other_v1.messages_request(await request.read())
        with wrapped():
            call = chat_call(self._node, validate.chat_request(native))
        return await reply_whole(self._node, call, other_v1.MessagesDialect(call.name))


@contextmanager
def wrapped() -> Iterator[None]:
    """Mark a Refusal as one of the native API under /v1."""
    try:
        yield
    except Refusal as refusal:
        refusal.wrapped = True
        raise


async def _json(request: web.Request) -> Any:
    return validate.read(await request.read())
