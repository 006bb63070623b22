"""An answer on its way to a client: its lines, as values, and what a dialect makes of them."""

from typing import Protocol

import msgspec

from orion_streams.gateway import golang
from orion_streams.gateway.refusal import JsonObject, Refusal

EVENT_STREAM = "text/event-stream"
EVENT_HEARTBEAT = b": waiting\n\n"
"""A comment, which clients of server-sent events do not see."""


class Metrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Durations in nanoseconds. Zeros are left out, such as `eval_duration` of a single token."""

    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class Line(msgspec.Struct):
    """A part of an answer, or (`done`) its end. `tool_calls` are in Ollama's form; `orion` is shown beside
    the end as it is."""

    created_ns: int
    text: str = ""
    thinking: str = ""
    tool_calls: list[JsonObject] = []
    logprobs: list[JsonObject] = []
    done: bool = False
    done_reason: str = ""
    context: list[int] | None = None
    metrics: Metrics = Metrics()
    orion: JsonObject = {}


class HttpAnswer(msgspec.Struct, frozen=True):
    """A whole HTTP response."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str] = {}


class Dialect(Protocol):
    """Writes one answer of one API, whole or as a stream: its lines, a sign of life while there are none,
    and an error that ends it after the headers are sent."""

    stream_type: str

    def whole(self, line: Line) -> HttpAnswer: ...

    def part(self, line: Line) -> bytes: ...

    def heartbeat(self, now_ns: int) -> bytes: ...

    def broken(self, refusal: Refusal) -> bytes: ...


def json_answer(
    value: object, status: int = 200, *, charset: bool = True, newline: bool = False, retry_after_s: int = 0
) -> HttpAnswer:
    """Make an answer with the content type and the last byte that Ollama gives it."""
    body = golang.encode(value) + (b"\n" if newline else b"")
    kind = "application/json; charset=utf-8" if charset else "application/json"
    return HttpAnswer(status, body, kind, {"Retry-After": str(retry_after_s)} if retry_after_s else {})


def put(target: JsonObject, key: str, value: object) -> None:
    """Set a key, unless its value is empty."""
    if value:
        target[key] = value
