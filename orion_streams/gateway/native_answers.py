"""Write answers in Ollama's own form, whole and as lines of JSON."""

from typing import Literal

import msgspec

from orion_streams.gateway import golang
from orion_streams.gateway.answers import HttpAnswer, Line, Metrics, json_answer, put
from orion_streams.gateway.refusal import JsonObject, Refusal

Style = Literal["generate", "chat"]


class NativeDialect:
    """Writes lines of JSON, or one object."""

    stream_type = "application/x-ndjson"

    def __init__(self, style: Style, name: str) -> None:
        self._style = style
        self._name = name

    def part(self, line: Line) -> bytes:
        return golang.encode(rendered(self._style, self._name, line)) + b"\n"

    def heartbeat(self, now_ns: int) -> bytes:
        """Write a part without content, which adds nothing to an answer."""
        return self.part(Line(now_ns))

    def broken(self, refusal: Refusal) -> bytes:
        return golang.encode({"error": refusal.message}) + b"\n"

    def whole(self, line: Line) -> HttpAnswer:
        return json_answer(rendered(self._style, self._name, line))


def native_error(refusal: Refusal, *, charset: bool = True) -> HttpAnswer:
    """Write a refusal."""
    value = {"error": refusal.message}
    return json_answer(value, refusal.status, charset=charset, retry_after_s=refusal.retry_after_s)


def rendered(style: Style, name: str, line: Line) -> JsonObject:
    """Convert a line to the keys of the native API, in its order, without empty ones."""
    shown: JsonObject = {"model": name, "created_at": golang.timestamp(line.created_ns)}
    if style == "generate":
        shown["response"] = line.text
        put(shown, "thinking", line.thinking)
    else:
        message: JsonObject = {"role": "assistant", "content": line.text}
        put(message, "thinking", line.thinking)
        put(message, "tool_calls", line.tool_calls)
        shown["message"] = message
    shown["done"] = line.done
    put(shown, "done_reason", line.done_reason)
    if style == "generate":
        put(shown, "context", line.context)
    else:
        put(shown, "logprobs", line.logprobs)
    shown |= msgspec.to_builtins(line.metrics)
    if style == "generate":
        put(shown, "tool_calls", line.tool_calls)
        put(shown, "logprobs", line.logprobs)
    put(shown, "orion", line.orion)
    return shown


def embedded(name: str, vectors: list[list[float]], metrics: Metrics) -> HttpAnswer:
    """Write the answer of `/api/embed`."""
    return json_answer({"model": name, "embeddings": vectors, **msgspec.to_builtins(metrics)})


def embedded_one(vector: list[float]) -> HttpAnswer:
    """Write the answer of the older `/api/embeddings`: one vector, empty for an empty prompt."""
    return json_answer({"embedding": vector})
