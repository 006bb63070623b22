"""The routes that run a model."""

from aiohttp import web

from orion_streams.demo.ollama.embed import embed, embeddings
from orion_streams.demo.ollama.native_api import chat_call, generate_call
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import reply, response_of
from orion_streams.gateway import native_requests
from orion_streams.gateway.native_answers import NativeDialect


class Routes:
    """One handler for each route. The middleware answers a Refusal."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = native_requests.generate_request(native_requests.read(await request.read()))
        call = generate_call(self._node, body)
        return await reply(request, self._node, call, NativeDialect("generate", call.name))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = native_requests.chat_request(native_requests.read(await request.read()))
        call = chat_call(self._node, body)
        return await reply(request, self._node, call, NativeDialect("chat", call.name))

    async def embed(self, request: web.Request) -> web.Response:
        body = native_requests.embed_request(native_requests.read(await request.read()))
        return response_of(await embed(self._node, body))

    async def embeddings(self, request: web.Request) -> web.Response:
        body = native_requests.embedding_request(native_requests.read(await request.read()))
        return response_of(await embeddings(self._node, body))
