"""Write answers as OpenAI's chat and completions, whole and as events."""

import base64
import struct
import time

from aiohttp import web

from orion_streams.demo.ollama import golang
from orion_streams.demo.ollama.answer_lines import Line
from orion_streams.demo.ollama.embed import Embedded
from orion_streams.demo.ollama.engine import JsonObject, Refusal
from orion_streams.demo.ollama.write_json import json_response

_KINDS = {400: "invalid_request_error", 404: "not_found_error"}


def error(refusal: Refusal, *, wrapped: bool) -> web.Response:
    """Make an error object; `wrapped`: the error of the native API, which shows in two details."""
    kind = _KINDS.get(refusal.status, "api_error")
    value = {"error": {"message": refusal.message, "type": kind, "param": None, "code": None}}
    return json_response(value, refusal.status, charset=not wrapped, newline=wrapped)


class OpenAIDialect:
    """Writes server-sent events, or one object. `chat`: chat completions, else text completions."""

    stream_type = "text/event-stream"

    def __init__(self, name: str, *, chat: bool, usage: bool) -> None:
        self._chat = chat
        self._usage = usage
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{made_up_number(999)}"
        self._name = name
        self._called = False

    def part(self, line: Line) -> bytes:
        self._called = self._called or bool(line.tool_calls)
        written = [_event(chunk) for chunk in self._chunks(line)]
        if line.done and self._usage:
            end = self._chunk(self._name, [])
            written.append(_event({**end, "usage": _usage(line)}))
        if line.done:
            written.append(b"data: [DONE]\n\n")
        return b"".join(written)

    def broken(self, message: str) -> bytes:
        """Write an empty answer of a model without name, as the real server does for its own error line."""
        empty = Line(time.time_ns())
        return _event(self._chunk("", [self._choice(empty, "delta")]))

    def whole(self, line: Line) -> web.Response:
        kind = "chat.completion" if self._chat else "text_completion"
        value = {
            "id": self._id,
            "object": kind,
            "created": line.created_ns // 10**9,
            "model": self._name,
            "system_fingerprint": "fp_ollama",
            "choices": [self._choice(line, "message")],
            "usage": _usage(line),
        }
        return json_response(value, charset=False, newline=True)

    def refused(self, refusal: Refusal, *, streaming: bool = False) -> web.Response:
        return error(refusal, wrapped=True)

    def _chunks(self, line: Line) -> list[JsonObject]:
        chunk = self._chunk(self._name, [self._choice(line, "delta")])
        if not self._chat and self._usage:
            nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            return [{**chunk, "usage": nothing}]
        return [chunk]

    def _chunk(self, name: str, choices: list[JsonObject]) -> JsonObject:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        chunk: JsonObject = {"id": self._id, "object": kind, "created": int(time.time())}
        made, by = {"choices": choices}, {"model": name, "system_fingerprint": "fp_ollama"}
        return {**chunk, **by, **made} if self._chat else {**chunk, **made, **by}

    def _choice(self, line: Line, key: str) -> JsonObject:
        reason = line.done_reason or None
        if not self._chat:
            return {"text": line.text, "index": 0, "finish_reason": reason}
        message: JsonObject = {"role": "assistant", "content": line.text}
        if line.thinking:
            message["reasoning"] = line.thinking
        if line.tool_calls:
            message["tool_calls"] = [tool_call(call) for call in line.tool_calls]
        if reason and (self._called or line.tool_calls):
            reason = "tool_calls"
        choice: JsonObject = {"index": 0, key: message, "finish_reason": reason}
        if line.logprobs:
            choice["logprobs"] = {"content": line.logprobs}
        return choice


def tool_call(call: JsonObject) -> JsonObject:
    """Convert a tool call; its arguments become a string of JSON."""
    function = call["function"]
    arguments = golang.encode(function["arguments"]).decode()
    return {
        "id": call["id"],
        "index": function["index"],
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def made_up_number(below: int) -> int:
    """Make a number for an id, which may repeat."""
    return time.perf_counter_ns() % below


def _event(value: JsonObject) -> bytes:
    return b"data: " + golang.encode(value) + b"\n\n"


def _usage(line: Line) -> JsonObject:
    metrics = line.metrics
    return {
        "prompt_tokens": metrics.prompt_eval_count,
        "completion_tokens": metrics.eval_count,
        "total_tokens": metrics.prompt_eval_count + metrics.eval_count,
    }


def embedding_list(name: str, done: Embedded, *, packed: bool) -> web.Response:
    """Write vectors as lists, or `packed` as base64 of little-endian 32-bit floats."""
    data = [
        {"object": "embedding", "embedding": _packed(v) if packed else v, "index": index}
        for index, v in enumerate(done.vectors)
    ]
    value = {
        "object": "list",
        "data": data,
        "model": name,
        "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
    }
    return json_response(value, charset=False, newline=True)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
