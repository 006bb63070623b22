"""Ollama over HTTP: its streams, what it has, and its refusals sorted by blame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from orion_streams.agents.backend import Chunk, RunFailedError
from orion_streams.config import NodeConfig
from orion_streams.model.measured import Usage
from orion_streams.protocol import agent_entries, requests_replies
from orion_streams.protocol.agent_entries import Amount, Word

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class Message(Struct):
    """The `message` of a chat line."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []


class Line(Struct):
    """One line of Ollama's stream; durations in ns, left out when there is nothing to say."""

    response: str = ""
    thinking: str = ""
    message: Message | None = None
    error: str = ""
    done: bool = False
    done_reason: Word = ""
    total_duration: Amount = 0
    load_duration: Amount = 0
    prompt_eval_count: Amount = 0
    prompt_eval_duration: Amount = 0
    eval_count: Amount = 0
    eval_duration: Amount = 0


class Embedded(Struct):
    """Ollama's answer to /api/embed; the vectors stay as they came."""

    embeddings: msgspec.Raw = msgspec.Raw(b"[]")
    total_duration: Amount = 0
    load_duration: Amount = 0
    prompt_eval_count: Amount = 0


class Row(Struct):
    """A row of /api/tags or /api/ps; sizes in bytes."""

    name: Word
    digest: Word = ""
    size: Amount = 0
    context_length: Amount = 0


class Rows(Struct):
    """The answer of /api/tags and /api/ps."""

    models: list[Row] = []


_line = msgspec.json.Decoder(Line).decode
_rows = msgspec.json.Decoder(Rows).decode
_OWN_FAULT = (
    "must be of type",
    "invalid format",
    "does not support",
    "failed to process inputs",
    "exceeds the context",
    "invalid option",
)
"""Words of 500s that blame the request (Ollama answers a wrong option type so)."""
RUNNER_OPTIONS = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"})
"""What a model is loaded with: with another value Ollama loads it anew."""
EMBEDS_ONLY = "does not support generate"
MB = NS_PER_MS = 1_000_000
LINE_MAX_BYTES = 16 * MB
END_S = 1.0
"""How long the end of a body is waited for after its last line."""


class Ollama:
    """Ollama over HTTP. It has no inference timeout of its own: the caller sets deadlines."""

    def __init__(self, node: NodeConfig, num_predict_max: int) -> None:
        self._keep_alive, self._num_predict_max = node.keep_alive, num_predict_max
        self._simulated = node.simulated
        self._http = httpx.AsyncClient(
            base_url=node.ollama,
            timeout=httpx.Timeout(None, connect=5.0, pool=None),
            trust_env=False,  # the house is air-gapped: no proxy from the environment
        )
        self.engine = "ollama"
        self._identified = False

    async def close(self) -> None:
        await self._http.aclose()

    async def run(
        self, entry: requests_replies.RequestEntry, options: Mapping[str, int]
    ) -> AsyncGenerator[Chunk, None]:
        kind = requests_replies.kind_of(entry)
        body = request_body(entry, options, self._keep_alive, self._num_predict_max)
        try:
            if not self._identified:
                self.engine, self._identified = await self._identify(), True
            async with self._http.stream("POST", f"/api/{kind}", content=body) as answer:
                if answer.status_code != 200:
                    raise refusal(answer.status_code, await answer.aread())
                if kind == "embed":
                    yield embedded(await answer.aread())
                    return
                rows = lines(answer)
                async for raw in rows:
                    piece = chunk(raw)
                    if piece.usage is not None:  # a connection is kept only if the body's end was read
                        with suppress(TimeoutError, httpx.HTTPError):
                            async with asyncio.timeout(END_S):
                                await anext(rows, None)
                    yield piece
        except httpx.HTTPError as error:
            self._identified = False  # whoever answers next may be another version
            raise broken(error) from error

    async def load(self, model: str, options: Mapping[str, int]) -> None:
        """An empty prompt loads; a model that only embeds is loaded by an empty list of texts."""
        body = {"model": model, "keep_alive": self._keep_alive, "options": options}
        try:
            await self._end("/api/generate", {**body, "stream": False})
        except RunFailedError as error:
            if EMBEDS_ONLY not in str(error):
                raise
            embedded(await self._post("/api/embed", {**body, "input": []}))

    async def unload(self, model: str) -> None:
        """Ollama answers at once and unloads when nobody uses the model."""
        await self._end("/api/generate", {"model": model, "keep_alive": 0, "stream": False})

    async def installed(self) -> tuple[agent_entries.InstalledModel, ...]:
        """Ollama's models on disk. Raises httpx.HTTPError or one of UNREADABLE."""
        return tuple(
            agent_entries.InstalledModel(row.name, row.digest, -(-row.size // MB))
            for row in await self._get("/api/tags")
        )

    async def resident(self) -> tuple[agent_entries.ResidentModel, ...]:
        """Ollama's models in memory, as it says. Raises httpx.HTTPError or one of UNREADABLE."""
        return tuple(
            agent_entries.ResidentModel(row.name, row.digest, -(-row.size // MB), row.context_length)
            for row in await self._get("/api/ps")
        )

    async def _identify(self) -> str:
        """What answers here, for the replies' `engine`. A simulated node says so itself."""
        path, key = ("/sim/sensors", "engine") if self._simulated else ("/api/version", "version")
        answer = await self._http.get(path, timeout=5)
        try:
            name = msgspec.json.decode(answer.content, type=dict[str, Any])[key]
        except (*UNREADABLE, KeyError) as error:
            what = f"{path} answers without `{key}` (status {answer.status_code})"
            raise RunFailedError("bad_answer", "node", what) from error
        return f"simulated ({name})" if self._simulated else f"ollama {name}"[:64]

    async def _get(self, path: str) -> list[Row]:
        answer = await self._http.get(path, timeout=5)
        answer.raise_for_status()
        return _rows(answer.content).models

    async def _end(self, path: str, body: Mapping[str, Any]) -> None:
        """An answer of one line. A server that is being stopped answers, too: without `done`."""
        if chunk(await self._post(path, body)).usage is None:
            raise RunFailedError("no_done", "node", "Ollama ended without `done`", True)

    async def _post(self, path: str, body: Mapping[str, Any]) -> bytes:
        try:
            answer = await self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise broken(error) from error
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content)
        return answer.content


def request_body(
    entry: requests_replies.RequestEntry, pinned: Mapping[str, int], keep_alive: str, num_predict_max: int
) -> bytes:
    """Ollama's request. An answer always has a limit: without one a model may go on for ever."""
    options = merged(entry.options or {}, pinned)
    body: dict[str, Any] = {"model": entry.model, "keep_alive": keep_alive, "options": options}
    if requests_replies.kind_of(entry) == "embed":
        body["input"] = entry.input if entry.input is not None else [entry.prompt]
        return msgspec.json.encode(body)
    asked = options.get("num_predict", 0)
    is_number = isinstance(asked, int | float) and not isinstance(asked, bool)  # else Ollama refuses it
    if is_number and not 1 <= asked <= num_predict_max:
        options["num_predict"] = num_predict_max
    body["stream"] = True
    for name in ("prompt", "system", "messages", "format", "tools", "images", "think"):
        value = getattr(entry, name)
        if value is not None:
            body[name] = value
    return msgspec.json.encode(body)


def merged(asked: Mapping[str, Any], pinned: Mapping[str, int]) -> dict[str, Any]:
    """A request's options under the pinned ones of the runner. Where any is pinned, none of the request's
    own reaches the runner: Ollama would load the model anew."""
    if not pinned:
        return dict(asked)
    return {name: value for name, value in asked.items() if name not in RUNNER_OPTIONS} | dict(pinned)


def broken(error: httpx.HTTPError) -> RunFailedError:
    """A connection that could not be made, or that broke."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RunFailedError("ollama_unreachable", "node", f"Ollama: {error or 'no connection'}")
    what = f"the connection to Ollama broke: {type(error).__name__}"
    return RunFailedError("stream_cut", "node", what, breaks_model=True)


async def lines(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, at "\n" alone: httpx's own would also cut inside a text, at U+0085."""
    rest = b""
    async for block in answer.aiter_bytes():
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(rest) > LINE_MAX_BYTES:
            raise RunFailedError("bad_answer", "node", "Ollama's line has no end", breaks_model=True)
    if rest:
        yield rest


def embedded(raw: bytes) -> Chunk:
    """The answer of /api/embed. Raises RunFailedError."""
    try:
        found = msgspec.json.decode(raw, type=Embedded)
    except UNREADABLE as error:
        raise RunFailedError("bad_answer", "node", f"Ollama's vectors cannot be read: {error}") from error
    total_ms, load_ms = found.total_duration // NS_PER_MS, found.load_duration // NS_PER_MS
    usage = Usage(
        prompt_tokens=found.prompt_eval_count,
        load_ms=load_ms,
        prefill_ms=max(total_ms - load_ms, 0),
        total_ms=total_ms,
        done_reason="stop",
    )
    return Chunk(vectors=bytes(found.embeddings), usage=usage)


def chunk(raw: bytes) -> Chunk:
    """One line of the stream. Raises RunFailedError for an error line, which comes under status 200."""
    try:
        line = _line(raw)
    except UNREADABLE as error:
        raise RunFailedError(
            "bad_answer", "node", f"Ollama's line cannot be read: {error}", True
        ) from error
    if line.error:
        raise RunFailedError("ollama_error", "node", line.error[:200], breaks_model=True)
    said = line.message or Message()
    return Chunk(
        text=line.response or said.content,
        thinking=line.thinking or said.thinking,
        tool_calls=tuple(said.tool_calls),
        usage=usage_of(line) if line.done else None,
    )


def usage_of(line: Line) -> Usage:
    """Read the counts and durations of the last line."""
    return Usage(
        tokens=line.eval_count,
        prompt_tokens=line.prompt_eval_count,
        load_ms=line.load_duration // NS_PER_MS,
        prefill_ms=line.prompt_eval_duration // NS_PER_MS,
        decode_ms=line.eval_duration // NS_PER_MS,
        total_ms=line.total_duration // NS_PER_MS,
        done_reason=line.done_reason,
    )


def refusal(status: int, body: bytes) -> RunFailedError:
    """An answer that is not 200, by blame. Not every 5xx is the node's fault."""
    try:
        words = str(msgspec.json.decode(body)["error"])[:200]
    except (*UNREADABLE, KeyError, TypeError):
        words = f"status {status}"
    if status == 404:
        return RunFailedError("model_missing", "node", words)
    if status == 503:
        return RunFailedError("ollama_busy", "node", words)
    if status in (400, 501) or any(each in words for each in _OWN_FAULT):
        return RunFailedError("refused", "request", words)
    return RunFailedError("ollama_error", "node", words, breaks_model=True)
