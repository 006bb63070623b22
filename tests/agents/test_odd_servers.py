"""Whatever answers at an Ollama's URL: a run ends in a usable answer or in a failure with a name, and the
next one is served."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import httpx
import msgspec
import pytest

from orion_streams.agents import ollama_backend
from orion_streams.agents.backend import RunFailedError
from orion_streams.agents.ollama_backend import Ollama
from orion_streams.agents.ollama_http import ANSWER_MAX_BYTES
from orion_streams.config import NodeConfig
from orion_streams.protocol.agent_entries import WorkHead
from orion_streams.protocol.requests_replies import RequestEntry
from tests.agents.agent_bench import MODEL
from tests.agents.odd_server import answering
from tests.agents.test_ollama_answers import RECORDED

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 35\r\n\r\n{"response":"a"}\n{"done":true}    \n'
NO_VERSION = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"
ASKED = (RequestEntry(model=MODEL, prompt="x"), RequestEntry(model=MODEL, input=["x", "y"]))
RAW = {
    "nothing": b"",
    "no HTTP": b"\x00\x01\x02",
    "half a head": b"HTTP/1.1 200",
    "a body that is cut": b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"response":"a"}\n',
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a loop of redirects": b"HTTP/1.1 307 X\r\nLocation: /api/generate\r\nContent-Length: 0\r\n\r\n",
    "an empty body": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an error as a list": b'HTTP/1.1 400 X\r\nContent-Length: 13\r\n\r\n{"error":[1]}',
}


def one_by_one(answers: list[bytes]) -> Callable[[str], bytes]:
    """Answer each run with the next of these; nobody knows a version."""
    return lambda path: NO_VERSION if path == "/api/version" else answers.pop(0)


async def ends(backend: Ollama, entry: RequestEntry) -> str:
    """How a run ends: in an answer, without one, or the code of its failure, which has a sentence."""
    try:
        chunks = [each async for each in backend.run(entry, WorkHead("run"))]
    except RunFailedError as error:
        assert str(error)
        return error.code
    if not chunks or chunks[-1].usage is None:
        return "no_done"
    if entry.input is not None:
        vectors = msgspec.json.decode(chunks[-1].vectors, type=list[list[float]])
        assert len(vectors) == len(entry.input)
    return "done"


@pytest.mark.parametrize("what", RAW)
async def test_odd_bytes_are_a_failure_with_a_name(what: str) -> None:
    """Whatever is asked; and the next run is served."""
    for entry in ASKED:
        async with answering(one_by_one([RAW[what], GOOD])) as backend:
            code = await ends(backend, entry)
            assert code in ("stream_cut", "bad_answer", "no_done", "not_ollama")
            assert await ends(backend, ASKED[0]) == "done"


@pytest.mark.parametrize("seed", range(3))
async def test_any_mixture_of_recorded_answers_is_taken(seed: int) -> None:
    """Lines of a real Ollama in any order, under any status, some of them cut."""
    rng = random.Random(seed)
    bodies = []
    for _ in range(40):
        lines = [msgspec.json.encode(each) for each in rng.choices(RECORDED, k=rng.randrange(4))]
        body = b"\n".join(lines)[: rng.choice((None, None, rng.randrange(200)))]
        status = rng.choice((200, 200, 200, 400, 404, 429, 500, 502, 503))
        bodies.append(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
    async with answering(one_by_one([*bodies, GOOD])) as backend:
        codes = {await ends(backend, rng.choice(ASKED)) for _ in bodies}
        assert await ends(backend, ASKED[0]) == "done"
    assert {"bad_answer", "no_done", "not_ollama", "model_missing"} <= codes


LONG = b" " * (ANSWER_MAX_BYTES + 1)


async def test_an_answer_without_an_end_is_not_kept() -> None:
    """An error, vectors, a list: what is larger than any answer is a failure with a name."""
    error = b"HTTP/1.1 502 X\r\n\r\n" + LONG
    async with answering(one_by_one([error, error, b"HTTP/1.1 200 OK\r\n\r\n" + LONG, GOOD])) as backend:
        assert [await ends(backend, entry) for entry in ASKED] == ["bad_answer", "bad_answer"]
        assert await ends(backend, ASKED[1]) == "answer_too_large"
        assert await ends(backend, ASKED[0]) == "done"
    async with answering(lambda _: b"HTTP/1.1 200 OK\r\n\r\n" + LONG) as backend:
        for listed in (backend.installed, backend.resident):
            with pytest.raises(httpx.HTTPError, match="an answer of more than"):
                await listed()
        assert await ends(backend, ASKED[0]) == "bad_answer"  # its line has no end


async def test_a_list_that_only_trickles_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it has its time, not each byte."""
    for name in ("LIST_S", "ASK_S"):
        monkeypatch.setattr(ollama_backend, name, 1.0)
    is_over = asyncio.Event()
    sent: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
        while not is_over.is_set() and not writer.is_closing():
            writer.write(b" ")
            sent.append(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), 0.02)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend = Ollama(NodeConfig(ollama=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 50)
    for listed in (backend.installed, backend.resident):
        with pytest.raises(httpx.HTTPError, match="does not answer within"):
            await listed()
    await backend.identify()
    assert backend.engine == "ollama"
    assert len(sent) > 10
    is_over.set()
    await backend.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("version", [b"null", b"5", b'{"error":"x"}', b'"\xff"', b"NaN"])
async def test_a_version_that_is_none_is_no_label(version: bytes) -> None:
    """It is an Ollama all the same."""
    async with answering(lambda _: b'HTTP/1.1 200 OK\r\n\r\n{"version":%s}' % version) as backend:
        await backend.identify()
        assert backend.engine == "ollama"


async def test_a_gateway_is_no_ollama() -> None:
    """Whatever it answers, its requests would come back to it: nothing is asked of it, and the place is
    named. The same answer of another server is taken."""
    tags = b'{"models":[]}'
    length = b"Content-Length: %d\r\n" % len(tags)
    of_gateway = b"HTTP/1.1 200 OK\r\nServer: orion-gateway\r\n" + length + b"\r\n" + tags
    async with answering(lambda _: of_gateway) as backend:
        assert await ends(backend, ASKED[0]) == "ollama_unreachable"
        with pytest.raises(
            httpx.ConnectError, match=r"127\.0\.0\.1:\d+ is the gateway of a grid, no Ollama"
        ):
            await backend.installed()
    async with answering(lambda _: of_gateway.replace(b"orion-gateway", b"other")) as backend:
        assert (await backend.installed()).models == ()
