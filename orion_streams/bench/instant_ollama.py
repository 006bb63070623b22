"""A node's Ollama that answers at once, and a server that only ever says one thing.

The tokens of an answer are the last message's text with a count: who asks with a text of its own can tell
whether its answer is whole. `python -m orion_streams.bench.instant_ollama MODEL` serves on a free port,
until SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

CONSTANT_PATH = "/constant"
CONSTANT = b'{"message":{"role":"assistant","content":"hello"},"done":true}'
TOKENS, TOKENS_MAX = 1, 1_000
"""In an answer to who does not say `num_predict`, and at most."""
AT = "2026-01-01T00:00:00Z"
METRICS = {
    "total_duration": 1_000_000,
    "load_duration": 0,
    "prompt_eval_count": 3,
    "prompt_eval_duration": 1_000_000,
    "eval_duration": 1_000_000,
}
DIGEST = "0" * 64


def token(text: str, number: int) -> str:
    """Return one token of the answer to a text."""
    return f"{text}.{number} "


def tokens(text: str, count: int) -> str:
    """Return the whole answer to a text."""
    return "".join(token(text, number) for number in range(count))


def lines(model: str, text: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of a streamed chat."""
    begin = {"model": model, "created_at": AT}
    for number in range(count):
        yield {**begin, "message": {"role": "assistant", "content": token(text, number)}, "done": False}
    yield {**begin, **end(""), "eval_count": count}


def end(content: str) -> dict[str, Any]:
    """Return what a last line says."""
    message = {"role": "assistant", "content": content}
    return {"message": message, "done": True, "done_reason": "stop", **METRICS}


async def chat(http: web.Request) -> web.Response:
    """Answer `/api/chat`, or the empty `/api/generate` by which a model is loaded."""
    asked = msgspec.json.decode(await http.read(), type=dict[str, Any])
    messages = asked.get("messages") or [{"content": ""}]
    text, model = str(messages[-1]["content"]), str(asked.get("model", ""))
    count = min(int((asked.get("options") or {}).get("num_predict", TOKENS)), TOKENS_MAX)
    if asked.get("stream", True):
        body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines(model, text, count))
        return web.Response(body=body, content_type="application/x-ndjson")
    answer = {"model": model, "created_at": AT, **end(tokens(text, count)), "eval_count": count}
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


async def constant(http: web.Request) -> web.Response:
    """Answer the same to everybody."""
    await http.read()
    return web.Response(body=CONSTANT, content_type="application/json")


def application(model: str) -> web.Application:
    """Return the server of a node that has one model, in memory for good."""
    row = {"name": model, "model": model, "size": 1_000_000, "digest": DIGEST, "context_length": 4_096}

    def says(value: object) -> Any:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(body=msgspec.json.encode(value), content_type="application/json")

        return handler

    app = web.Application()
    for path in ("/api/tags", "/api/ps"):
        app.router.add_get(path, says({"models": [row]}))
    app.router.add_get("/api/version", says({"version": "0.0.0-instant"}))
    app.router.add_post(
        "/api/show", says({"capabilities": ["completion"], "details": {"family": "instant"}})
    )
    for path in ("/api/chat", "/api/generate"):
        app.router.add_post(path, chat)
    app.router.add_post(CONSTANT_PATH, constant)
    return app


async def serve(model: str) -> None:
    """Serve until a signal. Write one line of JSON when ready."""
    ended = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, ended.set)
    runner = web.AppRunner(application(model), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        sys.stdout.write(msgspec.json.encode({"url": f"http://{host}:{port}"}).decode() + "\n")
        sys.stdout.flush()
        await ended.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
