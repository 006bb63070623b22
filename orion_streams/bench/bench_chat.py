"""The clients of `orion bench gateway`: the same chat over HTTP, and through the streams alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from orion_streams.bench.bench_load import Timing
from orion_streams.bench.instant_ollama import tokens
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError, OrionError
from orion_streams.protocol.answer_events import Answer, Piece

TEXT, TIMEOUT_S = "hello", 60.0
UNLIMITED = 10**9


class Chat(Protocol):
    """One way to the model."""

    async def ask(self) -> float:
        """Ask once, not streamed; return the seconds to the answer. Raise BackendError without one."""

    async def stream(self, text: str, count: int) -> float:
        """Ask for so many tokens, streamed; return the seconds to the first. Raise BackendError unless they
        come whole and in order."""

    async def close(self) -> None:
        """Close its connections."""


class HttpChat:
    """Chats over HTTP in Ollama's own form, on connections that are kept. By aiohttp, of Python's clients
    the one that costs least itself."""

    def __init__(self, url: str, model: str, path: str = "/api/chat") -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(TIMEOUT_S)
        self._http = aiohttp.ClientSession(url, connector=connector, timeout=timeout)
        self._url, self._model, self._path = url, model, path
        self._body = msgspec.json.encode(body(model, TEXT, 1, stream=False))

    async def close(self) -> None:
        await self._http.close()

    async def ask(self) -> float:
        began = time.perf_counter()
        try:
            async with self._http.post(self._path, data=self._body) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendError(f"{self._url} does not answer: {error!r}") from error
        if answer.status != 200 or b'"done":true' not in said:
            raise BackendError(f"{self._url} answers {answer.status}: {said[:200].decode()}")
        return time.perf_counter() - began

    async def stream(self, text: str, count: int) -> float:
        content = msgspec.json.encode(body(self._model, text, count, stream=True))
        said, first_s, began = "", 0.0, time.perf_counter()
        last: dict[str, Any] = {}
        try:
            async with self._http.post(self._path, data=content) as answer:
                async for line in answer.content:
                    last = msgspec.json.decode(line, type=dict[str, Any])
                    said += last.get("message", {}).get("content", "")
                    first_s = first_s or (time.perf_counter() - began if said else 0.0)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise BackendError(f"{self._url} broke a stream off: {error!r}") from error
        check_whole(said, text, count, bool(last.get("done")))
        return first_s


class StreamsChat:
    """Chats through the streams alone, with the Python client."""

    def __init__(self, url: str, client: str, prefix: str, model: str) -> None:
        self._client, self._model = AsyncClient(url, client, prefix=prefix), model

    async def close(self) -> None:
        await self._client.close()

    async def ask(self) -> float:
        began = time.perf_counter()
        try:
            await self._client.chat(self._model, messages(TEXT), options={"num_predict": 1})
        except OrionError as error:
            raise BackendError(f"the streams do not answer: {error}") from error
        return time.perf_counter() - began

    async def stream(self, text: str, count: int) -> float:
        said, first_s, ended, began = "", 0.0, False, time.perf_counter()
        try:
            async for event in self._client.stream(
                self._model, messages(text), options={"num_predict": count}
            ):
                if isinstance(event, Piece):
                    said += event.text
                    first_s = first_s or time.perf_counter() - began
                ended = isinstance(event, Answer)
        except OrionError as error:
            raise BackendError(f"the streams broke a stream off: {error}") from error
        check_whole(said, text, count, ended)
        return first_s


def messages(text: str) -> list[dict[str, str]]:
    """Return a chat of one message."""
    return [{"role": "user", "content": text}]


def body(model: str, text: str, count: int, *, stream: bool) -> dict[str, Any]:
    """Return a body of `/api/chat`."""
    options = {"num_predict": count}
    return {"model": model, "messages": messages(text), "options": options, "stream": stream}


def check_whole(said: str, text: str, count: int, ended: bool) -> None:
    """Raise BackendError unless an answer is the one that was asked for, from its begin to its end."""
    if said != tokens(text, count) or not ended:
        what = "" if ended else ", and did not end"
        raise BackendError(f"{text}: expected {count} tokens in order, got {said[-60:]!r}{what}")


async def in_turn(
    ways: Mapping[str, Chat], count: int, ask: Callable[[Chat], Coroutine[Any, Any, float]]
) -> dict[str, list[float]]:
    """Ask each way so many times, one request at a time and by turns; return what `ask` does, by way. So
    all of them meet the same disturbances, and processes that have just slept. Raise BackendError."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(count):
        for name in list(ways)[:: -1 if n % 2 else 1]:
            found[name].append(await ask(ways[name]))
    return found


async def timed(chat: Chat, seconds: float, at_a_time: int, most: int = UNLIMITED) -> Timing:
    """Keep `at_a_time` requests in flight for so many seconds, at most `most`. Raise BackendError."""
    began, left = time.perf_counter(), iter(range(most))
    latencies: list[float] = []

    async def one_after_the_other() -> None:
        while time.perf_counter() - began < seconds and next(left, None) is not None:
            latencies.append(await chat.ask())

    await asyncio.gather(*(one_after_the_other() for _ in range(at_a_time)))
    return Timing(latencies, time.perf_counter() - began)
