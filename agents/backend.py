"""What runs a request on this node: Ollama over HTTP, or an echo for measuring everything around it.

A failure carries its blame: the request's own, the node's, or ours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, Protocol

import httpx
import msgspec
from msgspec import Struct

from orion_streams import contract, wire
from orion_streams.config import NodeConfig
from orion_streams.errors import OrionError

Blame = Literal["request", "node", "ours"]


class RunFailed(OrionError):
    """A run that did not answer. `breaks_model`: whatever Ollama lists, the model is not in memory."""

    def __init__(self, code: str, blame: Blame, message: str, breaks_model: bool = False) -> None:
        super().__init__(message)
        self.code, self.blame, self.breaks_model = code, blame, breaks_model


class Chunk(Struct, frozen=True):
    """A piece of an answer; the last one is `done` and has counts and durations (ms)."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    vectors: bytes = b""
    done: bool = False
    done_reason: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    load_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    total_ms: int = 0


class Backend(Protocol):
    """What an agent needs of whatever runs models."""

    engine: str

    def run(self, entry: contract.RequestEntry) -> AsyncGenerator[Chunk, None]:
        """Stream an answer; it has succeeded only when a `done` chunk came. Raises RunFailed."""
        ...

    async def set_loaded(self, model: str, loaded: bool) -> None:
        """Load a model into memory or unload it. Raises RunFailed."""
        ...

    async def installed(self) -> tuple[wire.InstalledModel, ...]: ...
    async def resident(self) -> tuple[wire.ResidentModel, ...]: ...
    async def close(self) -> None: ...


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
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class Embedded(Struct):
    """Ollama's answer to /api/embed; the vectors stay as they came."""

    embeddings: msgspec.Raw = msgspec.Raw(b"[]")
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class Row(Struct):
    """A row of /api/tags or /api/ps; sizes in bytes."""

    name: str
    digest: str = ""
    size: int = 0
    context_length: int = 0


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
MB = 1_000_000


class Ollama:
    """Ollama over HTTP. It has no inference timeout of its own: the caller sets deadlines."""

    def __init__(self, node: NodeConfig, num_predict_max: int) -> None:
        self._keep_alive, self._num_predict_max = node.keep_alive, num_predict_max
        self._http = httpx.AsyncClient(
            base_url=node.ollama,
            timeout=httpx.Timeout(None, connect=5.0, pool=None),
            trust_env=False,  # the house is air-gapped: no proxy from the environment
        )
        self.engine = "ollama"

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, entry: contract.RequestEntry) -> AsyncGenerator[Chunk, None]:
        kind = contract.kind_of(entry)
        if kind == "embed":
            yield await self._embed(entry)
            return
        body = request_body(entry, self._keep_alive, self._num_predict_max)
        try:
            async with self._http.stream("POST", f"/api/{kind}", content=body) as answer:
                if answer.status_code != 200:
                    raise refusal(answer.status_code, await answer.aread())
                async for raw in answer.aiter_lines():
                    yield chunk(raw)
        except httpx.ConnectError as error:
            raise RunFailed("ollama_unreachable", "node", f"Ollama: {error}") from error
        except httpx.HTTPError as error:
            what = f"the connection to Ollama broke: {type(error).__name__}"
            raise RunFailed("stream_cut", "node", what, breaks_model=True) from error

    async def _embed(self, entry: contract.RequestEntry) -> Chunk:
        texts = entry.input if entry.input is not None else [entry.prompt]
        answer = await self._post(
            "/api/embed",
            {"model": entry.model, "input": texts, "options": entry.options or {}},
        )
        found = msgspec.json.decode(answer, type=Embedded)
        total_ms, load_ms = found.total_duration // MB, found.load_duration // MB
        return Chunk(
            vectors=bytes(found.embeddings),
            done=True,
            done_reason="stop",
            prompt_tokens=found.prompt_eval_count,
            load_ms=load_ms,
            prefill_ms=max(total_ms - load_ms, 0),
            total_ms=total_ms,
        )

    async def set_loaded(self, model: str, loaded: bool) -> None:
        await self._post(
            "/api/generate",
            {"model": model, "keep_alive": self._keep_alive if loaded else 0, "stream": False},
        )

    async def installed(self) -> tuple[wire.InstalledModel, ...]:
        """Ollama's models on disk. Raises httpx.HTTPError or msgspec.DecodeError."""
        return tuple(
            wire.InstalledModel(row.name, row.digest, -(-row.size // MB))
            for row in await self._get("/api/tags")
        )

    async def resident(self) -> tuple[wire.ResidentModel, ...]:
        """Ollama's models in memory, as it says. Raises httpx.HTTPError or msgspec.DecodeError."""
        return tuple(
            wire.ResidentModel(row.name, row.digest, -(-row.size // MB), row.context_length)
            for row in await self._get("/api/ps")
        )

    async def identify(self, simulated: bool) -> None:
        """Learn what answers here, for the replies' `engine`. A simulated node says so itself."""
        if simulated:
            sensors = msgspec.json.decode((await self._http.get("/sim/sensors", timeout=5)).content)
            self.engine = f"simulated ({sensors['engine']})"
        else:
            answer = await self._http.get("/api/version", timeout=5)
            self.engine = f"ollama {msgspec.json.decode(answer.content)['version']}"

    async def _get(self, path: str) -> list[Row]:
        answer = await self._http.get(path, timeout=5)
        answer.raise_for_status()
        return _rows(answer.content).models

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        try:
            answer = await self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise RunFailed("ollama_unreachable", "node", f"Ollama: {error}") from error
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content)
        return answer.content


def request_body(entry: contract.RequestEntry, keep_alive: str, num_predict_max: int) -> bytes:
    """Ollama's request. An answer always has a limit: without one a model may go on for ever."""
    options = dict(entry.options or {})
    asked = options.get("num_predict")
    if not isinstance(asked, int) or asked <= 0 or asked > num_predict_max:
        options["num_predict"] = num_predict_max if not isinstance(asked, str | list) else asked
    body: dict[str, Any] = {"model": entry.model, "stream": True, "keep_alive": keep_alive}
    body["options"] = options
    for name in ("prompt", "system", "messages", "format", "tools", "images", "think"):
        value = getattr(entry, name)
        if value is not None:
            body[name] = value
    return msgspec.json.encode(body)


def chunk(raw: str) -> Chunk:
    """One line of the stream. Raises RunFailed for an error line, which comes under status 200."""
    try:
        line = _line(raw)
    except msgspec.DecodeError as error:
        raise RunFailed("bad_answer", "node", f"Ollama's line is no JSON: {error}", True) from error
    if line.error:
        raise RunFailed("ollama_error", "node", line.error[:200], breaks_model=True)
    said = line.message or Message()
    return Chunk(
        text=line.response or said.content,
        thinking=line.thinking or said.thinking,
        tool_calls=tuple(said.tool_calls),
        done=line.done,
        done_reason=line.done_reason,
        tokens=line.eval_count,
        prompt_tokens=line.prompt_eval_count,
        load_ms=line.load_duration // MB,
        prefill_ms=line.prompt_eval_duration // MB,
        decode_ms=line.eval_duration // MB,
        total_ms=line.total_duration // MB,
    )


def refusal(status: int, body: bytes) -> RunFailed:
    """An answer that is not 200, by blame. Not every 5xx is the node's fault."""
    try:
        words = str(msgspec.json.decode(body)["error"])[:200]
    except (msgspec.DecodeError, KeyError, TypeError):
        words = f"status {status}"
    if status == 404:
        return RunFailed("model_missing", "node", words)
    if status == 503:
        return RunFailed("ollama_busy", "node", words)
    if status in (400, 501) or any(each in words for each in _OWN_FAULT):
        return RunFailed("refused", "request", words)
    return RunFailed("ollama_error", "node", words, breaks_model=True)


class Echo:
    """Answers at once, inside the agent: what is left to measure is the grid itself."""

    engine = "simulated (echo)"

    async def run(self, entry: contract.RequestEntry) -> AsyncGenerator[Chunk, None]:
        yield Chunk(text=entry.prompt or "")
        yield Chunk(done=True, done_reason="stop", tokens=1, prompt_tokens=1)

    async def set_loaded(self, model: str, loaded: bool) -> None:
        """Everything is always loaded."""

    async def installed(self) -> tuple[wire.InstalledModel, ...]:
        return (wire.InstalledModel("echo:latest", "echo", 1),)

    async def resident(self) -> tuple[wire.ResidentModel, ...]:
        return (wire.ResidentModel("echo:latest", "echo", 1),)

    async def close(self) -> None:
        """Nothing is open."""
