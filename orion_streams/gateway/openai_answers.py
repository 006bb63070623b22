"""Write answers as OpenAI's chat and completions, whole and as events."""

import base64
import struct
from collections.abc import Sequence

from orion_streams.gateway import golang
from orion_streams.gateway.answers import (
    EVENT_HEARTBEAT,
    EVENT_STREAM,
    HttpAnswer,
    Line,
    json_answer,
    put,
)
from orion_streams.gateway.refusal import JsonObject, Refusal

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
}


def openai_error(refusal: Refusal) -> HttpAnswer:
    """Write a refusal."""
    value = error_object(refusal)
    return json_answer(
        value, refusal.status, charset=False, newline=True, retry_after_s=refusal.retry_after_s
    )


def error_object(refusal: Refusal) -> JsonObject:
    kind = _KINDS.get(refusal.status, "api_error")
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": None}}


class OpenAIDialect:
    """Writes server-sent events, or one object. `chat`: chat completions, else text completions; `usage`: a
    stream ends with it."""

    stream_type = EVENT_STREAM

    def __init__(self, name: str, answer_id: str, created_s: int, *, chat: bool, usage: bool) -> None:
        self._name = name
        self._id = answer_id
        self._created_s = created_s
        self._chat = chat
        self._usage = usage
        self._begun = False
        self._calls = 0
        self._told = 0

    def part(self, line: Line) -> bytes:
        choices = self._chat_choices(line) if self._chat else self._text_choices(line)
        chunks = [self._chunk([choice]) for choice in choices]
        if line.done and self._usage:
            chunks.append({**self._chunk([]), "usage": usage(line)})
        if line.done:
            put(chunks[-1], "orion", line.orion)
        return b"".join(map(event, chunks)) + (b"data: [DONE]\n\n" if line.done else b"")

    def heartbeat(self, now_ns: int) -> bytes:
        return EVENT_HEARTBEAT

    def broken(self, refusal: Refusal) -> bytes:
        return event(error_object(refusal))

    def whole(self, line: Line) -> HttpAnswer:
        choice: JsonObject = {"index": 0}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": line.text}
            put(choice["message"], "reasoning", line.thinking)
            put(choice["message"], "tool_calls", self._tool_calls(line))
        else:
            choice = {"text": line.text, **choice}
        choice["finish_reason"] = self._reason(line)
        put(choice, "logprobs", self._logprobs(line))
        value = {
            "id": self._id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": self._created_s,
            "model": self._name,
            "system_fingerprint": "fp_ollama",
            "choices": [choice],
            "usage": usage(line),
        }
        put(value, "orion", line.orion)
        return json_answer(value, charset=False, newline=True)

    def _chunk(self, choices: list[JsonObject]) -> JsonObject:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        chunk: JsonObject = {"id": self._id, "object": kind, "created": self._created_s}
        made, by = {"choices": choices}, {"model": self._name, "system_fingerprint": "fp_ollama"}
        return {**chunk, **by, **made} if self._chat else {**chunk, **made, **by}

    def _chat_choices(self, line: Line) -> list[JsonObject]:
        """Return what a line says, then its end, with an empty delta."""
        delta: JsonObject = {} if self._begun else {"role": "assistant"}
        if line.text or not (self._begun or line.thinking or line.tool_calls):
            delta["content"] = line.text
        put(delta, "reasoning", line.thinking)
        put(delta, "tool_calls", self._tool_calls(line))
        self._begun = True
        choices: list[JsonObject] = []
        if delta or line.logprobs:
            choices.append({"index": 0, "delta": delta, "finish_reason": None})
            put(choices[0], "logprobs", self._logprobs(line))
        if line.done:
            choices.append({"index": 0, "delta": {}, "finish_reason": self._reason(line)})
        return choices

    def _text_choices(self, line: Line) -> list[JsonObject]:
        choice: JsonObject = {"text": line.text, "index": 0, "finish_reason": self._reason(line)}
        put(choice, "logprobs", self._logprobs(line))
        return [choice]

    def _reason(self, line: Line) -> str | None:
        if not line.done:
            return None
        if self._calls:
            return "tool_calls"
        return "length" if line.done_reason == "length" else "stop"

    def _tool_calls(self, line: Line) -> list[JsonObject]:
        first = self._calls
        self._calls += len(line.tool_calls)
        numbered = enumerate(line.tool_calls, first)
        return [{"index": index, **tool_call(call, f"{self._id}-{index}")} for index, call in numbered]

    def _logprobs(self, line: Line) -> JsonObject:
        if not line.logprobs:
            return {}
        if self._chat:
            return {"content": [{"bytes": None, "top_logprobs": [], **entry} for entry in line.logprobs]}
        tokens = [entry["token"] for entry in line.logprobs]
        offsets = [self._told + sum(map(len, tokens[:at])) for at in range(len(tokens))]
        self._told += sum(map(len, tokens))
        return {
            "tokens": tokens,
            "token_logprobs": [entry["logprob"] for entry in line.logprobs],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in entry.get("top_logprobs") or ()}
                for entry in line.logprobs
            ],
            "text_offset": offsets,
        }


def tool_call(call: JsonObject, made_up_id: str) -> JsonObject:
    """Convert a tool call of Ollama's, which may lack an id; its arguments become a string of JSON."""
    function = call.get("function") or {}
    arguments = golang.encode(function.get("arguments") or {}).decode()
    return {
        "id": call.get("id") or f"call_{made_up_id}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": arguments},
    }


def event(value: JsonObject) -> bytes:
    """Write a server-sent event without a name."""
    return b"data: " + golang.encode(value) + b"\n\n"


def named_event(kind: str, value: JsonObject) -> bytes:
    """Write a server-sent event with a name."""
    return b"event: " + kind.encode() + b"\n" + event(value)


def usage(line: Line) -> JsonObject:
    metrics = line.metrics
    return {
        "prompt_tokens": metrics.prompt_eval_count,
        "completion_tokens": metrics.eval_count,
        "total_tokens": metrics.prompt_eval_count + metrics.eval_count,
    }


def embedding_list(name: str, vectors: Sequence[list[float]], tokens: int, *, packed: bool) -> HttpAnswer:
    """Write vectors as lists, or `packed` as base64 of little-endian 32-bit floats."""
    data = [
        {"object": "embedding", "embedding": _packed(v) if packed else v, "index": index}
        for index, v in enumerate(vectors)
    ]
    value = {
        "object": "list",
        "data": data,
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json_answer(value, charset=False, newline=True)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
