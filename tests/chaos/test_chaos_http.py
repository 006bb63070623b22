"""What the HTTP clients of `orion chaos` call broken, and what they do not."""

import random
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.chaos.chaos_grid import ChaosGrid
from tests.chaos.chaos_http import HttpClients

LINE, END = b'{"response":"a","done":false}\n', b'{"response":"","done":true}\n'
EVENT, LAST = b'data: {"choices":[{"text":"a"}]}\n\n', b"data: [DONE]\n\n"
ERROR_LINE, ERROR_EVENT = b'{"error":"it broke"}\n', b'data: {"error":{"message":"it broke"}}\n\n'


class NoGrid:
    """A gateway that nobody killed."""

    gateway_is_up, gateway_deaths = True, 0

    def __init__(self, url: str) -> None:
        self.gateway_url = url


async def heard(status: int, native: bytes, v1: bytes) -> HttpClients:
    """Clients that asked a few times, and got these answers."""

    def answering(body: bytes) -> Any:
        async def answer(request: web.Request) -> web.Response:
            if (await request.json())["stream"]:
                return web.Response(status=status, body=body)
            if "v1" in request.path:
                return web.json_response({"choices": [{"text": "a"}]})
            return web.json_response({"response": "a"})

        return answer

    app = web.Application()
    app.add_routes(
        [web.post("/api/generate", answering(native)), web.post("/v1/completions", answering(v1))]
    )
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        grid = cast("ChaosGrid", NoGrid(str(server.make_url("")).rstrip("/")))
        texts: list[str] = []
        clients = HttpClients(grid, random.Random(2), ["m"], ["p"], lambda *noted: texts.append(noted[2]))
        for _ in range(40):
            await clients._ask(http)
        assert set(texts) <= {"a"}
    return clients


async def test_whole_answers_are_well() -> None:
    """Streamed and not, of both APIs."""
    clients = await heard(200, LINE + END, EVENT + LAST)
    assert clients.broken == []
    assert clients.ends["answered"] > 0


@pytest.mark.parametrize(
    ("status", "native", "v1"),
    [(200, LINE + ERROR_LINE, EVENT + ERROR_EVENT), (503, ERROR_LINE, ERROR_EVENT)],
)
async def test_clear_errors_are_well(status: int, native: bytes, v1: bytes) -> None:
    """As a status, or as the last part of a stream."""
    clients = await heard(status, native, v1)
    assert clients.broken == []
    assert clients.ends["error"] > 0


@pytest.mark.parametrize(
    ("status", "native", "v1"),
    [(200, LINE, EVENT), (500, ERROR_LINE, ERROR_EVENT), (503, b"oops", b"oops"), (404, b"{}", b"{}")],
)
async def test_half_answers_and_unclear_errors_are_broken(status: int, native: bytes, v1: bytes) -> None:
    """A stream without an end, a status that blames nobody, an error that says nothing."""
    assert (await heard(status, native, v1)).broken
