"""`/v1/responses` and `/v1/messages`: whole texts only, without event streams and tools."""

import time
from typing import Any

from aiohttp import web

from orion_streams.demo.ollama import golang
from orion_streams.demo.ollama.answer_lines import Line
from orion_streams.demo.ollama.engine import JsonObject, Refusal
from orion_streams.demo.ollama.openai_answers import error, made_up_number
from orion_streams.demo.ollama.openai_requests import native_messages
from orion_streams.demo.ollama.write_json import json_response

_NO_STREAM = "this simulated node answers here only without streaming"
_RESPONSES = {
    "model": "string",
    "instructions": "string",
    "max_output_tokens": "int",
    "stream": "bool",
    "temperature": "float64",
    "top_p": "float64",
}
_MESSAGES = {
    "model": "string",
    "messages": "[]anthropic.MessageParam",
    "max_tokens": "int",
    "stop_sequences": "[]string",
    "stream": "bool",
}
_KINDS = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def responses_request(raw: bytes) -> tuple[JsonObject, JsonObject]:
    """Return the native chat request, and the body. Raises Refusal 400."""
    decoded = golang.decode(raw, when_empty="EOF")
    body = golang.check_types(decoded, "openai.ResponsesRequest", _RESPONSES)
    options = {"temperature": body.get("temperature", 1.0)}
    if "top_p" in body:
        options["top_p"] = body["top_p"]
    if "max_output_tokens" in body:
        options["num_predict"] = body["max_output_tokens"]
    asked = body.get("input", "")
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not isinstance(items, list):
        raise Refusal(400, "input must be a string or array")
    messages = _system(body.get("instructions"))
    messages += [part for item in items for part in native_messages(item)]
    return _native(body, messages, options), body


def messages_request(raw: bytes) -> JsonObject:
    """Return the native chat request. Raises Refusal 400."""
    decoded = golang.decode(raw, when_empty="EOF")
    body = golang.check_types(decoded, "anthropic.MessagesRequest", _MESSAGES)
    if not body.get("model"):
        raise Refusal(400, "model is required")
    if body.get("max_tokens", 0) <= 0:
        raise Refusal(400, "max_tokens is required and must be positive")
    if not body.get("messages"):
        raise Refusal(400, "messages is required")
    options: JsonObject = {"num_predict": body["max_tokens"]}
    options |= {key: body[key] for key in ("temperature", "top_p", "top_k") if key in body}
    if body.get("stop_sequences"):
        options["stop"] = body["stop_sequences"]
    messages = _system(body.get("system"))
    messages += [part for message in body["messages"] for part in native_messages(message)]
    return _native(body, messages, options)


def _system(text: Any) -> list[JsonObject]:
    if isinstance(text, list):
        text = "".join(block.get("text", "") for block in text if isinstance(block, dict))
    return [{"role": "system", "content": text}] if isinstance(text, str) and text else []


def _native(body: JsonObject, messages: list[JsonObject], options: JsonObject) -> JsonObject:
    if body.get("stream"):
        raise Refusal(400, _NO_STREAM)
    return {
        "model": body.get("model", ""),
        "messages": messages,
        "options": options,
        "stream": False,
    }


class ResponsesDialect:
    """Writes OpenAI's response object, with the request in it."""

    def __init__(self, name: str, body: JsonObject) -> None:
        self._name = name
        self._body = body

    def refused(self, refusal: Refusal, *, streaming: bool = False) -> web.Response:
        return error(refusal, wrapped=True)

    def whole(self, line: Line) -> web.Response:
        body = self._body
        return json_response(
            {
                "id": f"resp_{made_up_number(999_999)}",
                "object": "response",
                "created_at": line.created_ns // 10**9,
                "completed_at": int(time.time()),
                "status": "completed",
                "incomplete_details": None,
                "model": self._name,
                "previous_response_id": None,
                "instructions": body.get("instructions") or None,
                "output": _output(line),
                "error": None,
                "tools": [],
                "tool_choice": "auto",
                "truncation": body.get("truncation", "disabled"),
                "parallel_tool_calls": True,
                "text": {"format": {"type": "text"}},
                "top_p": body.get("top_p", 1),
                "presence_penalty": 0,
                "frequency_penalty": 0,
                "top_logprobs": 0,
                "temperature": body.get("temperature", 1),
                "reasoning": None,
                "usage": _responses_usage(line),
                "max_output_tokens": body.get("max_output_tokens"),
                "max_tool_calls": None,
                "store": False,
                "background": False,
                "service_tier": "default",
                "metadata": {},
                "safety_identifier": None,
                "prompt_cache_key": None,
            },
            charset=False,
            newline=True,
        )


def _output(line: Line) -> list[JsonObject]:
    text = {"type": "output_text", "text": line.text, "annotations": [], "logprobs": []}
    return [
        {
            "id": f"msg_{made_up_number(999_999)}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [text],
        }
    ]


def _responses_usage(line: Line) -> JsonObject:
    metrics = line.metrics
    return {
        "input_tokens": metrics.prompt_eval_count,
        "output_tokens": metrics.eval_count,
        "total_tokens": metrics.prompt_eval_count + metrics.eval_count,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


class MessagesDialect:
    """Writes Anthropic's answers and errors."""

    def __init__(self, name: str) -> None:
        self._name = name

    def refused(self, refusal: Refusal, *, streaming: bool = False) -> web.Response:
        return messages_error(refusal, wrapped=True)

    def whole(self, line: Line) -> web.Response:
        content: list[JsonObject] = []
        if line.text:
            content.append({"type": "text", "text": line.text})
        reason = _STOP_REASONS.get(line.done_reason, "")
        usage = {
            "input_tokens": line.metrics.prompt_eval_count,
            "output_tokens": line.metrics.eval_count,
        }
        value = {
            "id": f"msg_{made_up_number(16**12):024x}",
            "type": "message",
            "role": "assistant",
            "model": self._name,
            "content": content,
            "stop_reason": reason,
            "usage": usage,
        }
        return json_response(value, charset=False, newline=True)


def messages_error(refusal: Refusal, *, wrapped: bool) -> web.Response:
    """Make Anthropic's error object."""
    kind = _KINDS.get(refusal.status, "api_error")
    value = {
        "type": "error",
        "error": {"type": kind, "message": refusal.message},
        "request_id": f"req_{made_up_number(16**12):024x}",
    }
    return json_response(value, refusal.status, charset=not wrapped, newline=wrapped)
