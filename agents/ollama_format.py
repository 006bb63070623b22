"""Ollama's JSON: what is asked, and what its answers mean, refusals sorted by blame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.agents.backend import Chunk, RunFailedError
from orion_streams.model.measured import Usage
from orion_streams.protocol import requests_replies
from orion_streams.protocol.agent_entries import Amount, InstalledModel, ResidentModel, Word

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
RUNNER_OPTIONS = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"})
"""What a model is loaded with: with another value Ollama loads it anew."""
OWN_FAULT = (
    "must be of type",
    "invalid format",
    "does not support",
    "failed to process inputs",
    "exceeds the context",
    "invalid option",
)
"""Words of 500s that blame the request (Ollama answers a wrong option type so)."""
MB = NS_PER_MS = 1_000_000


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
    """The answer of /api/tags or /api/ps."""

    models: list[Row] = []


_line = msgspec.json.Decoder(Line).decode
_rows = msgspec.json.Decoder(Rows).decode


def request_body(
    entry: requests_replies.RequestEntry, pinned: Mapping[str, int], keep_alive: str, num_predict_max: int
) -> bytes:
    """Make a request. It always limits the answer: without a limit a model may go on for ever."""
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
    """Merge a request's options with the runner's that are pinned. Where any is pinned, pass on none of the
    request's own to the runner: Ollama would load the model anew."""
    if not pinned:
        return dict(asked)
    return {name: value for name, value in asked.items() if name not in RUNNER_OPTIONS} | dict(pinned)


def chunk(raw: bytes) -> Chunk:
    """Read one line of a stream. Raises RunFailedError, also for an error told under status 200."""
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


def embedded(raw: bytes) -> Chunk:
    """Read the answer of /api/embed. Raises RunFailedError."""
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


def installed_models(raw: bytes) -> tuple[InstalledModel, ...]:
    """Read the answer of /api/tags. Raises one of UNREADABLE."""
    return tuple(InstalledModel(row.name, row.digest, -(-row.size // MB)) for row in _rows(raw).models)


def resident_models(raw: bytes) -> tuple[ResidentModel, ...]:
    """Read the answer of /api/ps. Raises one of UNREADABLE."""
    return tuple(
        ResidentModel(row.name, row.digest, -(-row.size // MB), row.context_length)
        for row in _rows(raw).models
    )


def refusal(status: int, body: bytes) -> RunFailedError:
    """Say by whose fault an answer is not 200. Not every 5xx is the node's."""
    try:
        words = str(msgspec.json.decode(body)["error"])[:200]
    except (*UNREADABLE, KeyError, TypeError):
        words = f"status {status}"
    if status == 404:
        return RunFailedError("model_missing", "node", words)
    if status == 503:
        return RunFailedError("ollama_busy", "node", words)
    if status in (400, 501) or any(each in words for each in OWN_FAULT):
        return RunFailedError("refused", "request", words)
    return RunFailedError("ollama_error", "node", words, breaks_model=True)
