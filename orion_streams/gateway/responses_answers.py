"""Write answers as OpenAI's response objects, whole and as events."""

from orion_streams.gateway.answers import EVENT_HEARTBEAT, EVENT_STREAM, HttpAnswer, Line, json_answer, put
from orion_streams.gateway.openai_answers import error_object, named_event, tool_call
from orion_streams.gateway.refusal import JsonObject, Refusal


class ResponsesDialect:
    """Writes a response object with the request in it, or the events of its growth: items are opened,
    grow by deltas and are closed one after the other. `number`: of what the ids are made."""

    stream_type = EVENT_STREAM

    def __init__(self, body: JsonObject, number: str, created_s: int) -> None:
        self._body = body
        self._number = number
        self._created_s = created_s
        self._sequence = 0
        self._output: list[JsonObject] = []
        self._open: JsonObject | None = None

    def part(self, line: Line) -> bytes:
        written = self._begin() + self._grow(line)
        if line.done:
            if not self._output and self._open is None:
                written += self._opened("message")
            written += self._close()
            done = self._response("completed", line)
            written += self._event("response.completed", response=done)
        return written

    def heartbeat(self, now_ns: int) -> bytes:
        return EVENT_HEARTBEAT

    def broken(self, refusal: Refusal) -> bytes:
        """Write the failed response, and the error beside it: some clients heed only the one, some the
        other."""
        failed = self._response("failed", None)
        failed["error"] = {"code": "server_error", "message": refusal.message}
        failure = {**error_object(refusal), "code": None, "message": refusal.message, "param": None}
        return self._event("response.failed", response=failed) + self._event("error", **failure)

    def whole(self, line: Line) -> HttpAnswer:
        self._grow(line)
        if not self._output and self._open is None:
            self._opened("message")
        self._close()
        return json_answer(self._response("completed", line), charset=False, newline=True)

    def _begin(self) -> bytes:
        if self._sequence:
            return b""
        begun = self._response("in_progress", None)
        created = self._event("response.created", response=begun)
        return created + self._event("response.in_progress", response=begun)

    def _grow(self, line: Line) -> bytes:
        written = self._told("reasoning", line.thinking) + self._told("message", line.text)
        for call in line.tool_calls:
            written += self._close() + self._called(call)
        return written

    def _told(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        written = b""
        if self._open is None or self._open["type"] != kind:
            written = self._close() + self._opened(kind)
        _content(self._open)["text"] += text
        return written + self._content_event("delta", delta=text)

    def _opened(self, kind: str) -> bytes:
        """Open an item with one empty content."""
        at = len(self._output)
        if kind == "message":
            self._open = {
                "id": f"msg_{self._number}" + (f"_{at}" if at else ""),
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}],
            }
        else:
            content = [{"type": "summary_text", "text": ""}]
            self._open = {"id": f"rs_{self._number}_{at}", "type": "reasoning", "summary": content}
        empty = {**self._open, _content_key(self._open): []}
        added = self._event("response.output_item.added", output_index=at, item=empty)
        return added + self._part_event("added")

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        text = _content(self._open)["text"]
        written = self._content_event("done", text=text) + self._part_event("done")
        if "status" in self._open:
            self._open["status"] = "completed"
        written += self._event("response.output_item.done", output_index=len(self._output), item=self._open)
        self._output.append(self._open)
        self._open = None
        return written

    def _called(self, call: JsonObject) -> bytes:
        """Write a call, which comes whole."""
        at = len(self._output)
        told = tool_call(call, f"{self._number}_{at}")
        arguments = told["function"]["arguments"]
        item = {
            "id": f"fc_{self._number}_{at}",
            "type": "function_call",
            "status": "completed",
            "call_id": told["id"],
            "name": told["function"]["name"],
            "arguments": arguments,
        }
        self._output.append(item)
        begun = {**item, "status": "in_progress", "arguments": ""}
        place = {"item_id": item["id"], "output_index": at}
        steps = "response.function_call_arguments"
        return (
            self._event("response.output_item.added", output_index=at, item=begun)
            + self._event(f"{steps}.delta", **place, delta=arguments)
            + self._event(f"{steps}.done", **place, name=item["name"], arguments=arguments)
            + self._event("response.output_item.done", output_index=at, item=item)
        )

    def _content_event(self, step: str, **more: object) -> bytes:
        """Write that the text of the open item grew or is complete."""
        if self._is_message():
            return self._event(f"response.output_text.{step}", **self._place(), **more, logprobs=[])
        return self._event(f"response.reasoning_summary_text.{step}", **self._place(), **more)

    def _part_event(self, step: str) -> bytes:
        name = "content_part" if self._is_message() else "reasoning_summary_part"
        return self._event(f"response.{name}.{step}", **self._place(), part=_content(self._open))

    def _is_message(self) -> bool:
        return self._open is not None and self._open["type"] == "message"

    def _place(self) -> JsonObject:
        item_id = self._open["id"] if self._open else ""
        index = "content_index" if self._is_message() else "summary_index"
        return {"item_id": item_id, "output_index": len(self._output), index: 0}

    def _event(self, kind: str, **fields: object) -> bytes:
        numbered = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return named_event(kind, numbered)

    def _response(self, status: str, end: Line | None) -> JsonObject:
        """Return the response object as it is now; `end`: the last line, if it has come."""
        body = self._body
        response = {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": self._created_s,
            "completed_at": end.created_ns // 10**9 if end else None,
            "status": status,
            "incomplete_details": None,
            "model": body.get("model", ""),
            "previous_response_id": None,
            "instructions": body.get("instructions") or None,
            "output": list(self._output),
            "error": None,
            "tools": body.get("tools", []),
            "tool_choice": body.get("tool_choice", "auto"),
            "truncation": body.get("truncation", "disabled"),
            "parallel_tool_calls": True,
            "text": body.get("text", {"format": {"type": "text"}}),
            "top_p": body.get("top_p", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": body.get("temperature", 1),
            "reasoning": body.get("reasoning"),
            "usage": _usage(end) if end else None,
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": body.get("metadata", {}),
            "safety_identifier": None,
            "prompt_cache_key": None,
        }
        put(response, "orion", end.orion if end else {})
        return response


def _content_key(item: JsonObject) -> str:
    return "content" if item["type"] == "message" else "summary"


def _content(item: JsonObject | None) -> JsonObject:
    """Return the only content of an item."""
    content: JsonObject = item[_content_key(item)][0] if item else {}
    return content


def _usage(line: Line) -> JsonObject:
    metrics = line.metrics
    return {
        "input_tokens": metrics.prompt_eval_count,
        "output_tokens": metrics.eval_count,
        "total_tokens": metrics.prompt_eval_count + metrics.eval_count,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
