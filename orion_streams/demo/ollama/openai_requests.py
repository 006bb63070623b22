"""Convert requests under /v1 to bodies of the native API.

All functions raise Refusal 400 for what they cannot read.
"""

from typing import Any

from orion_streams.demo.ollama import golang
from orion_streams.demo.ollama.engine import JsonObject, Refusal

_SHARED = {
    "model": "string",
    "stream": "bool",
    "stream_options": "map[string]interface {}",
    "max_tokens": "int",
    "seed": "int",
    "temperature": "float64",
    "top_p": "float64",
    "frequency_penalty": "float64",
    "presence_penalty": "float64",
}
_CHAT = _SHARED | {
    "messages": "[]openai.Message",
    "tools": "[]api.Tool",
    "response_format": "map[string]interface {}",
    "logprobs": "bool",
    "top_logprobs": "int",
}
_COMPLETION = _SHARED | {"prompt": "string", "suffix": "string", "logprobs": "int"}
_EMBED = {"model": "string", "dimensions": "int", "encoding_format": "string"}
_EFFORTS = ("high", "medium", "low", "max", "none")


def chat_request(raw: bytes) -> tuple[JsonObject, bool]:
    """Return the native chat request, and whether a stream ends with the usage."""
    body = _checked(raw, "openai.ChatCompletionRequest", _CHAT)
    messages = body.get("messages")
    if not messages:
        raise Refusal(400, "[] is too short - 'messages'")
    native = {
        **_shared(body),
        "messages": [part for message in messages for part in native_messages(message)],
        "tools": body.get("tools", []),
        "format": _format(body.get("response_format", {})),
        "think": _think(body),
        "logprobs": body.get("logprobs", False),
        "top_logprobs": body.get("top_logprobs", 0),
    }
    return native, _wants_usage(body)


def completion_request(raw: bytes) -> tuple[JsonObject, bool]:
    """Return the native generate request, and whether a stream ends with the usage."""
    body = _checked(raw, "openai.CompletionRequest", _COMPLETION)
    top = body.get("logprobs", 0)
    native = {
        **_shared(body),
        "prompt": body.get("prompt", ""),
        "suffix": body.get("suffix", ""),
        "logprobs": top > 0,
        "top_logprobs": top,
    }
    return native, _wants_usage(body)


def embeddings_request(raw: bytes) -> tuple[JsonObject, bool]:
    """Return the native embed request, and whether vectors are packed."""
    body = _checked(raw, "openai.EmbedRequest", _EMBED)
    encoding = body.get("encoding_format", "")
    if encoding and encoding.lower() not in {"float", "base64"}:
        raise Refusal(
            400,
            f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].",
        )
    if body.get("input") in (None, []):
        raise Refusal(400, "invalid input")
    wanted = [""] if body["input"] == "" else body["input"]
    native = {"model": body.get("model", ""), "input": wanted}
    native["dimensions"] = body.get("dimensions", 0)
    return native, encoding.lower() == "base64"


def native_messages(message: Any) -> list[JsonObject]:
    """Convert a message with a text; each part of a list becomes a message."""
    if not isinstance(message, dict):
        raise Refusal(400, "invalid message format")
    role = message.get("role", "")
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if content is None and message.get("tool_calls"):
        return [{"role": role, "content": ""}]
    if not isinstance(content, list):
        name = {type(None): "<nil>", bool: "bool", dict: "map[string]interface {}"}
        kind = name.get(type(content), "float64")
        raise Refusal(400, f"invalid message content type: {kind}")
    return [_part(role, part) for part in content]


def _part(role: str, part: Any) -> JsonObject:
    match part:
        case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
            return {"role": role, "content": text}
        case {"type": "image_url"}:
            return {"role": role, "content": "", "images": ["image"]}
        case _:
            raise Refusal(400, "invalid message format")


def _shared(body: JsonObject) -> JsonObject:
    return {
        "model": body.get("model", ""),
        "stream": body.get("stream", False),
        "options": _options(body),
    }


def _wants_usage(body: JsonObject) -> bool:
    return bool(body.get("stream_options", {}).get("include_usage"))


def _checked(raw: bytes, struct: str, fields: dict[str, str]) -> JsonObject:
    return golang.check_types(golang.decode(raw, when_empty="EOF"), struct, fields)


def _format(wanted: JsonObject) -> Any:
    match wanted:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return schema
        case _:
            return None


def _options(body: JsonObject) -> JsonObject:
    names = {"max_tokens": "num_predict"}
    kept = ("max_tokens", "seed", "frequency_penalty", "presence_penalty", "temperature", "top_p")
    options = {"temperature": 1.0, "top_p": 1.0}
    options |= {names.get(key, key): body[key] for key in kept if key in body}
    stop = body.get("stop")
    if isinstance(stop, str | list):
        stops = [stop] if isinstance(stop, str) else [s for s in stop if isinstance(s, str)]
        return {**options, "stop": stops}
    return options


def _think(body: JsonObject) -> bool | str | None:
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    effort = effort or body.get("reasoning_effort")
    if not effort:
        return None
    if effort not in _EFFORTS:
        listed = '"high", "medium", "low", "max", or "none"'
        raise Refusal(400, f"invalid reasoning value: '{effort}' (must be {listed})")
    return False if effort == "none" else str(effort)
