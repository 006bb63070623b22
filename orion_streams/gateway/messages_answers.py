"""Write answers as Anthropic's messages, whole and as events."""

from orion_streams.gateway import golang
from orion_streams.gateway.answers import EVENT_HEARTBEAT, EVENT_STREAM, HttpAnswer, Line, json_answer, put
from orion_streams.gateway.openai_answers import named_event, tool_call
from orion_streams.gateway.refusal import JsonObject, Refusal

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_EMPTY: dict[str, JsonObject] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


def messages_error(refusal: Refusal, request_id: str) -> HttpAnswer:
    """Write a refusal."""
    value = {**_error(refusal), "request_id": request_id}
    return json_answer(
        value, refusal.status, charset=False, newline=True, retry_after_s=refusal.retry_after_s
    )


def _error(refusal: Refusal) -> JsonObject:
    kind = _KINDS.get(refusal.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def counted_tokens(tokens: int) -> HttpAnswer:
    """Write the answer of `/v1/messages/count_tokens`."""
    return json_answer({"input_tokens": tokens}, charset=False, newline=True)


class MessagesDialect:
    """Writes a message, or the events of its growth: blocks are opened, grow by deltas and are closed one
    after the other. `number`: of what the ids are made; `input_tokens`: what a stream says of the prompt
    before it is known."""

    stream_type = EVENT_STREAM

    def __init__(self, name: str, number: str, input_tokens: int = 0) -> None:
        self._name = name
        self._number = number
        self._input_tokens = input_tokens
        self._begun = False
        self._blocks = 0
        self._open = ""
        self._called = False

    def part(self, line: Line) -> bytes:
        written = b"" if self._begun else self._begin()
        written += self._told("thinking", line.thinking) + self._told("text", line.text)
        for call in line.tool_calls:
            block = self._tool_use(call)
            arguments = golang.encode(block["input"]).decode()
            delta = {"type": "input_json_delta", "partial_json": arguments}
            written += self._close() + self._start({**block, "input": {}}, "tool_use")
            written += self._delta(delta) + self._close()
        if line.done:
            written += self._close() + self._end(line)
        return written

    def heartbeat(self, now_ns: int) -> bytes:
        return EVENT_HEARTBEAT

    def broken(self, refusal: Refusal) -> bytes:
        return named_event("error", _error(refusal))

    def whole(self, line: Line) -> HttpAnswer:
        content: list[JsonObject] = []
        if line.thinking:
            content.append({**_EMPTY["thinking"], "thinking": line.thinking})
        if line.text:
            content.append({"type": "text", "text": line.text})
        content += [self._tool_use(call) for call in line.tool_calls]
        value = {
            "id": f"msg_{self._number}",
            "type": "message",
            "role": "assistant",
            "model": self._name,
            "content": content,
            "stop_reason": self._reason(line),
            "usage": _usage(line),
        }
        put(value, "orion", line.orion)
        return json_answer(value, charset=False, newline=True)

    def _begin(self) -> bytes:
        self._begun = True
        message: JsonObject = {
            "id": f"msg_{self._number}",
            "type": "message",
            "role": "assistant",
            "model": self._name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._input_tokens, "output_tokens": 0},
        }
        return named_event("message_start", {"type": "message_start", "message": message})

    def _told(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        opened = b"" if self._open == kind else self._close() + self._start(_EMPTY[kind], kind)
        return opened + self._delta({"type": f"{kind}_delta", kind: text})

    def _start(self, block: JsonObject, kind: str) -> bytes:
        self._open = kind
        return self._block("content_block_start", content_block=block)

    def _delta(self, delta: JsonObject) -> bytes:
        return self._block("content_block_delta", delta=delta)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        written = self._block("content_block_stop")
        self._open = ""
        self._blocks += 1
        return written

    def _block(self, kind: str, **fields: JsonObject) -> bytes:
        return named_event(kind, {"type": kind, "index": self._blocks, **fields})

    def _end(self, line: Line) -> bytes:
        delta = {"stop_reason": self._reason(line), "stop_sequence": None}
        ended: JsonObject = {"type": "message_delta", "delta": delta, "usage": _usage(line)}
        put(ended, "orion", line.orion)
        return named_event("message_delta", ended) + named_event("message_stop", {"type": "message_stop"})

    def _tool_use(self, call: JsonObject) -> JsonObject:
        self._called = True
        told = tool_call(call, f"{self._number}_{self._blocks}")
        arguments = (call.get("function") or {}).get("arguments") or {}
        return {
            "type": "tool_use",
            "id": told["id"],
            "name": told["function"]["name"],
            "input": arguments,
        }

    def _reason(self, line: Line) -> str:
        return "tool_use" if self._called else _STOP_REASONS.get(line.done_reason, "end_turn")


def _usage(line: Line) -> JsonObject:
    return {
        "input_tokens": line.metrics.prompt_eval_count,
        "output_tokens": line.metrics.eval_count,
    }
