"""What Ollama's answers to a run mean: lenient in form, strict in content.

Null is absent, unknown members are ignored, a count that cannot be is unknown. But text is text, vectors
are whole, and an error is an error wherever it stands.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.agents.backend import Chunk, RunFailedError
from orion_streams.agents.ollama_json import UNREADABLE, read
from orion_streams.agents.ollama_requests import is_number
from orion_streams.model.measured import Usage
from orion_streams.model.toml_values import on_one_line
from orion_streams.protocol.agent_entries import MILLIS_MAX, TOKENS_MAX, WORD_MAX

NS_PER_MS = 1_000_000
REASON_MAX = 200
"""So many characters of Ollama's words are kept."""


class Message(Struct):
    """The `message` of a chat line."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    error: Any = None


class Metrics(Struct):
    """What a last line says of its answer: counts, and durations in ns."""

    error: Any = None
    done_reason: Any = None
    total_duration: Any = None
    load_duration: Any = None
    prompt_eval_count: Any = None
    prompt_eval_duration: Any = None
    eval_count: Any = None
    eval_duration: Any = None


class Line(Metrics):
    """One line of Ollama's stream."""

    response: str | None = None
    thinking: str | None = None
    message: Message | None = None
    tool_calls: list[dict[str, Any]] | None = None
    logprobs: list[dict[str, Any]] | None = None
    context: list[int] | None = None
    done: bool | None = None


class Embedded(Metrics):
    """Ollama's answer to /api/embed; the vectors stay as they came."""

    embeddings: msgspec.Raw = msgspec.Raw(b"null")


_line = msgspec.json.Decoder(Line).decode
_embedded = msgspec.json.Decoder(Embedded).decode
_vectors = msgspec.json.Decoder(list[list[float]]).decode


def chunk(raw: bytes, with_context: bool = False) -> Chunk:
    """Read one line of a stream; keep its context only if that was asked for: it is as long as the prompt.
    Raises RunFailedError, also for an error told under status 200."""
    try:
        line = read(raw, _line)
    except UNREADABLE as error:
        raise RunFailedError(
            "bad_answer", "node", f"Ollama's line cannot be read: {error}", True
        ) from error
    said = line.message or Message()
    fail_on(line.error)
    fail_on(said.error)
    try:
        calls = tuple(map(usable_call, line.tool_calls or said.tool_calls or ()))
        logprobs = tuple(map(usable_logprob, line.logprobs or ()))
    except (*UNREADABLE, ValueError) as error:
        what = f"Ollama's answer cannot be used: {error}"
        raise RunFailedError("bad_answer", "node", what, True) from error
    return Chunk(
        text=line.response or said.content or "",
        thinking=line.thinking or said.thinking or "",
        tool_calls=calls,
        logprobs=logprobs,
        context=tuple(line.context or ()) if with_context else (),
        usage=usage_of(line) if line.done else None,
    )


def usable_call(said: dict[str, Any]) -> dict[str, Any]:
    """Return a call of a tool by name, with an object of arguments; a server may leave them out, or write
    them as a text, as OpenAI's API does. Raises ValueError or one of UNREADABLE."""
    function = said.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ValueError("a call of a tool that names none")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = msgspec.json.decode(arguments or "{}")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise ValueError(f"a call of {name[:80]} whose arguments are no object")
    call = {key: value for key, value in said.items() if key != "id" or isinstance(value, str)}
    return {**call, "function": {**function, "arguments": arguments}}


def is_probable(row: object) -> bool:
    """Whether it is a token with its probability."""
    return isinstance(row, dict) and isinstance(row.get("token"), str) and is_number(row.get("logprob"))


def usable_logprob(said: dict[str, Any]) -> dict[str, Any]:
    """Return a token with its probability, and those of its alternatives. Raises ValueError."""
    others = said.get("top_logprobs") or []
    if not isinstance(others, list) or not all(map(is_probable, [said, *others])):
        raise ValueError("a token without its probability")
    return {key: value for key, value in said.items() if value is not None}


def embedded(raw: bytes, texts: int, dimensions: int = 0) -> Chunk:
    """Read the answer of /api/embed for so many texts, in vectors of so many `dimensions` (0: whatever the
    model has). Raises RunFailedError."""
    try:
        found = read(raw, _embedded)
        fail_on(found.error)
        vectors = b"[]" if bytes(found.embeddings) == b"null" else bytes(found.embeddings)
        length = check_vectors(_vectors(vectors), texts)
    except (*UNREADABLE, ValueError) as error:
        raise RunFailedError("bad_answer", "node", f"Ollama's vectors cannot be used: {error}") from error
    check_dimensions(length, dimensions)
    usage = usage_of(found)
    prefill_ms = max(usage.total_ms - usage.load_ms, 0)
    usage = msgspec.structs.replace(usage, prefill_ms=prefill_ms, done_reason="stop")
    return Chunk(vectors=vectors, usage=usage)


def check_dimensions(length: int, asked: int) -> None:
    """Raise RunFailedError for vectors of another length than was asked for. Ollama only cuts: a model that
    has too few is asked for what it cannot do; a server that does not cut is too old."""
    what = f"vectors of {length} numbers, and {asked} were asked for"
    if 0 < length < asked:
        raise RunFailedError("refused", "request", f"the model has {what}")
    if 0 < asked < length:
        raise RunFailedError("ollama_error", "node", what)  # alike on all nodes it opens no breaker


def check_vectors(vectors: list[list[float]], texts: int) -> int:
    """Return the length of the vectors. Raises ValueError unless there is one finite vector for each text,
    all of one length."""
    if len(vectors) != texts:
        raise ValueError(f"{len(vectors)} for {texts} texts")
    lengths = {len(vector) for vector in vectors}
    if 0 in lengths or len(lengths) > 1:
        raise ValueError(f"of {' and '.join(str(each) for each in sorted(lengths))} numbers")
    if not all(isfinite(number) for vector in vectors for number in vector):
        raise ValueError("a number in them is not finite")
    return max(lengths, default=0)


def fail_on(error: object) -> None:
    """Raise RunFailedError if an answer under status 200 tells of an error, in whatever form."""
    if tells_error(error):
        what = words_of(error)[:REASON_MAX] or "Ollama tells of an error without words"
        raise RunFailedError("ollama_error", "node", what, breaks_model=True)


def tells_error(error: object) -> bool:
    """Whether the member `error` of an answer tells of one: it is there, and not empty or false."""
    return error is not None and error is not False and error != ""


def words_of(error: object) -> str:
    """Return what an error says, on one line: a sentence, or an object that holds one as `message`."""
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]:
        error = error["message"]
    said = error if isinstance(error, str) else msgspec.json.encode(error).decode()
    return on_one_line(" ".join(said.split()))


def usage_of(line: Metrics) -> Usage:
    """Read the counts and durations of a last line."""
    return Usage(
        tokens=amount(line.eval_count, TOKENS_MAX),
        prompt_tokens=amount(line.prompt_eval_count, TOKENS_MAX),
        load_ms=millis(line.load_duration),
        prefill_ms=millis(line.prompt_eval_duration),
        decode_ms=millis(line.eval_duration),
        total_ms=millis(line.total_duration),
        done_reason=on_one_line(line.done_reason)[:WORD_MAX] if isinstance(line.done_reason, str) else "",
    )


def millis(duration: object) -> int:
    """Read a duration in ns as whole ms; 0 if it is absent or cannot be."""
    return amount(duration, (MILLIS_MAX + 1) * NS_PER_MS - 1) // NS_PER_MS


def amount(value: object, most: int) -> int:
    """Read a count; 0 if it is absent or cannot be: no whole number, negative, or above `most`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if 0 <= value <= most else 0
