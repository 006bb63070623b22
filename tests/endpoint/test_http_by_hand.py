"""HTTP as no library sends it: old, hasty, broken, endless, slow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orion_streams.agents import gateway_http, gateway_server, key_file
from orion_streams.gateway import keys
from tests.endpoint.wire import ECHO, GET, RUNNING, WHOLE, wire
from tests.gateway.gateway_stage import CHAT, Stage, gateway
from tests.helpers import eventually
from tests.needs import other_address

LIMIT = 100_000


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the rest of a body that nobody reads."""
    monkeypatch.setattr(gateway_server, "LINGER_S", 0.05)


@pytest.fixture
async def stage(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway that takes small bodies only."""
    async with gateway(valkey_url, prefix, tmp_path, max_body_bytes=LIMIT) as opened:
        yield opened


def said(raw: bytes) -> str:
    """The text of a native stream that ended well."""
    lines = [json.loads(line) for line in raw.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    return "".join(line["response"] for line in lines)


async def test_http_1_0_gets_no_chunks(stage: Stage) -> None:
    """Without a Host, and streamed: the body ends with the connection."""
    async with wire(stage.url) as line:
        await line.send("GET / HTTP/1.0")
        assert (await line.answer()).body == RUNNING
        assert await line.is_closed()
    async with wire(stage.url) as line:
        await line.post("/api/generate", ECHO, version="1.0")
        answer = await line.answer()
        assert (answer.status, answer.is_chunked, said(answer.body)) == (200, False, "Why?")


async def test_a_connection_serves_request_after_request(stage: Stage) -> None:
    """Keep-alive: a page, a stream, a whole answer, a refusal and a page again."""
    async with wire(stage.url) as line:
        await line.send(*GET)
        assert (await line.answer()).body == RUNNING
        await line.post("/api/generate", ECHO)
        streamed = await line.answer()
        assert (streamed.is_chunked, said(streamed.body)) == (True, "Why?")
        await line.post("/api/generate", WHOLE)
        assert said((await line.answer()).body) == "Why?"
        await line.post("/api/generate", {**ECHO, "model": "nope"})
        assert (await line.answer()).status == 404
        await line.send(*GET)
        assert (await line.answer()).body == RUNNING


async def test_hasty_requests_are_answered_in_their_order(stage: Stage) -> None:
    """Pipelined: several requests in one packet."""
    body = json.dumps(WHOLE).encode()
    post = (
        f"POST /api/generate HTTP/1.1\r\nHost: x.local\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    page = "\r\n".join((*GET, "", "")).encode()
    async with wire(stage.url) as line:
        line.writer.write(page + post + page)
        assert (await line.answer()).body == RUNNING
        assert said((await line.answer()).body) == "Why?"
        assert (await line.answer()).body == RUNNING


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_head_is_get_without_a_body(stage: Stage, path: str) -> None:
    """The same status, type and length, and nothing else on the line."""
    async with wire(stage.url) as line:
        await line.send(f"HEAD {path} HTTP/1.1", "Host: localhost")
        head = await line.answer(has_body=False)
        await line.send(f"GET {path} HTTP/1.1", "Host: localhost")
        whole = await line.answer()
    assert (head.status, head.headers["content-type"]) == (200, whole.headers["content-type"])
    assert int(head.headers["content-length"]) == len(whole.body)


@pytest.mark.parametrize(
    ("line", "status", "place"),
    [
        ("GET //api/tags HTTP/1.1", 301, "/api/tags"),
        ("HEAD /api/tags/ HTTP/1.1", 301, "/api/tags"),
        ("GET /v1/models/ HTTP/1.1", 301, "/v1/models"),
        ("GET //api///version/?a=%2F HTTP/1.1", 301, "/api/version?a=%2F"),
        ("POST //api/chat HTTP/1.1", 307, "/api/chat"),
        ("POST /v1//chat/completions/ HTTP/1.1", 307, "/v1/chat/completions"),
        ("DELETE /api/delete/ HTTP/1.1", 307, "/api/delete"),
        ("GET /api/chat/ HTTP/1.1", 404, None),
        ("GET //example.com/ HTTP/1.1", 404, None),
        ("GET /nope/ HTTP/1.1", 404, None),
        ("GET /api//../api/tags HTTP/1.1", 404, None),
    ],
)
async def test_slashes_too_many_are_redirected_as_ollama_does(
    stage: Stage, line: str, status: int, place: str | None
) -> None:
    """A URL of the gateway that ends with a slash works with every client that follows; only to a path
    that is served here."""
    async with wire(stage.url) as connection:
        await connection.send(line, "Host: localhost", "Content-Length: 0")
        answer = await connection.answer(has_body=not line.startswith("HEAD"))
        assert (answer.status, answer.headers.get("location")) == (status, place)
        await connection.send(*GET)
        assert (await connection.answer()).status == 200


async def test_a_connection_that_is_to_be_closed_is(stage: Stage) -> None:
    """`Connection: close`: the whole stream, then the end."""
    async with wire(stage.url) as line:
        await line.post("/api/generate", ECHO, "Connection: close")
        assert said((await line.answer()).body) == "Why?"
        assert await line.is_closed()


@pytest.mark.parametrize(
    "head",
    [
        ("complete nonsense",),
        ("GET / HTTP/9.9", "Host: localhost"),
        ("GET /\x00 HTTP/1.1", "Host: localhost"),
        ("GET / HTTP/1.1", "Host: localhost", "no colon"),
        ("POST /api/generate HTTP/1.1", "Host: localhost", "Content-Length: -1"),
        (
            "POST /api/generate HTTP/1.1",
            "Host: localhost",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
        ),
        ("GET / HTTP/1.1", "Host: localhost", "X-Long: " + "x" * 20_000),
        ("GET /" + "x" * 20_000 + " HTTP/1.1", "Host: localhost"),
        ("GET / HTTP/1.1", "Host: localhost", *(f"X-{number}: x" for number in range(1_000))),
    ],
    ids=lambda head: f"{head[0][:20]} {len(head)}",
)
async def test_what_is_no_http_is_a_bad_request(stage: Stage, head: tuple[str, ...]) -> None:
    """400, nothing of the program's inside, and the connection ends; others are served."""
    async with wire(stage.url) as line:
        await line.send(*head)
        answer = await line.answer()
        assert answer.status in (400, 431)
        assert b"Traceback" not in answer.body
        assert await line.is_closed()
    async with wire(stage.url) as line:
        await line.send(*GET)
        assert (await line.answer()).status == 200


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/show"])
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff\xfe", b'{"model": 1}', b"[" * 50_000])
async def test_what_is_no_json_is_a_bad_request_in_the_apis_form(
    stage: Stage, path: str, body: bytes
) -> None:
    """400 and the API's own error; the connection goes on."""
    async with wire(stage.url) as line:
        await line.post(path, body)
        answer = await line.answer()
        assert answer.status == 400
        assert isinstance(answer.error, dict if path.startswith("/v1") else str)
        await line.send(*GET)
        assert (await line.answer()).status == 200


@pytest.mark.parametrize("expecting", [(), ("Expect: 100-continue",)])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    stage: Stage, expecting: tuple[str, ...]
) -> None:
    """413 by its announced length, with not a byte of it sent; who asks first is not told to go on."""
    async with wire(stage.url) as line:
        length = f"Content-Length: {LIMIT + 1}"
        await line.send("POST /api/generate HTTP/1.1", "Host: localhost", length, *expecting)
        answer = await line.answer()
    assert answer.status == 413
    assert "max_body_bytes" in answer.error


async def test_who_asks_whether_to_send_is_told_to(stage: Stage) -> None:
    """`Expect: 100-continue`, as curl sends it with large bodies."""
    body = json.dumps(WHOLE).encode()
    async with wire(stage.url) as line:
        head = ("POST /api/generate HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}")
        await line.send(*head, "Expect: 100-continue")
        assert (await line.answer(has_body=False)).status == 100
        line.writer.write(body)
        assert said((await line.answer()).body) == "Why?"


async def test_a_body_in_endless_chunks_is_too_large(stage: Stage) -> None:
    """413 once it is larger than a body may be, however it is sent."""
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    async with wire(stage.url) as line:
        await line.send("POST /api/generate HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked")
        answering = asyncio.create_task(line.answer())
        while not answering.done():
            line.writer.write(chunk)
            await asyncio.wait({answering}, timeout=0.001)
        assert answering.result().status == 413


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_never_ends_is_given_up(
    stage: Stage, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408 after the time that a body may take."""
    monkeypatch.setattr(gateway_http, "BODY_S", 0.05)
    async with wire(stage.url) as line:
        await line.send("POST /api/generate HTTP/1.1", "Host: localhost", framing, body=b"5\r\n{    \r\n")
        answer = await line.answer()
        assert answer.status == 408
        assert await line.is_closed()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Host: localhost:11435",), 200),
        (("Host: 127.0.0.1",), 200),
        (("Host: evil.example",), 403),
        (("Host: localhost.evil.example",), 403),
        (("Host: localhost", "Origin: http://localhost:3000"), 200),
        (("Host: localhost", "Origin: https://evil.example"), 403),
        (("Host: localhost", "Origin: null"), 403),
        (("Host: localhost", "X-Forwarded-For: 192.168.1.9"), 401),
        (("Host: localhost", "Authorization: Bearer anything"), 200),
    ],
)
async def test_who_is_let_in(stage: Stage, headers: tuple[str, ...], status: int) -> None:
    """By host, page, and whether it came through a proxy, in the API's form."""
    async with wire(stage.url) as line:
        await line.send("GET /api/tags HTTP/1.1", *headers)
        answer = await line.answer()
    assert answer.status == status
    assert status == 200 or isinstance(answer.error, str)


async def test_a_browser_may_ask_before_it_asks(stage: Stage) -> None:
    """The preflight of a page of this machine, with the headers that OpenAI's client sends."""
    asked = "authorization,content-type,x-stainless-lang"
    async with wire(stage.url) as line:
        await line.send(
            "OPTIONS /v1/chat/completions HTTP/1.1",
            "Host: localhost",
            "Origin: http://localhost:3000",
            "Access-Control-Request-Method: POST",
            f"Access-Control-Request-Headers: {asked}",
        )
        allowed = await line.answer(has_body=False)
        await line.post("/api/generate", ECHO, "Origin: http://localhost:3000")
        answer = await line.answer()
    assert allowed.status == 204
    names = {each.strip().lower() for each in allowed.headers["access-control-allow-headers"].split(",")}
    assert set(asked.split(",")) <= names
    for each in (allowed, answer):
        assert each.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.everything(bool(other_address()))
async def test_another_address_needs_a_key(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Listening everywhere: 401 and how to get one; with the key an answer as its own client, until it is
    removed."""
    token = keys.token_of(bytes(keys.TOKEN_BYTES))
    key = keys.Key(name="tablet", client="key-tablet", hash=keys.digest_of(token), created="2026-11-01")
    async with (
        gateway(valkey_url, prefix, tmp_path, listen="0.0.0.0:1") as stage,
        wire(stage.url, other_address()) as line,
    ):
        await line.post("/v1/chat/completions", CHAT)
        refused = await line.answer()
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "orion key add" in refused.error["message"]
        key_file.change(tmp_path / "keys.json", lambda table: keys.with_key(table, key))

        async def status() -> int:
            await line.post("/v1/chat/completions", CHAT, f"Authorization: Bearer {token}")
            return (await line.answer()).status

        async def is_let_in() -> bool:
            return await status() == 200

        await eventually(is_let_in, "the key is known")
        [run] = stage.grid.runs
        assert run.head.request.startswith("key-tablet/")
        key_file.change(tmp_path / "keys.json", lambda table: keys.without_key(table, "tablet"))

        async def is_refused() -> bool:
            return await status() == 401

        await eventually(is_refused, "the key is forgotten")
