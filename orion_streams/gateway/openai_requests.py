"""Convert requests under /v1 to checked bodies of the native API.

All functions raise Refusal 400 for what they cannot read; fields they do not know are ignored.
"""

from typing import Any

from orion_streams.gateway import golang, native_requests
from orion_streams.gateway.openai_messages import native_messages
from orion_streams.gateway.refusal import JsonObject, Refusal

_SHARED = {
    "model": "string",
    "stream": "bool",
    "stream_options": "map[string]interface {}",
    "max_tokens": "int",
    "max_completion_tokens": "int",
    "n": "int",
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
_COMPLETION = _SHARED | {"suffix": "string", "logprobs": "int"}
_EMBED = {"model": "string", "dimensions": "int", "encoding_format": "string"}
_OPTIONS = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "temperature": "temperature",
    "top_p": "top_p",
}
_EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


def chat_request(raw: bytes) -> tuple[JsonObject, bool]:
    """Return the native chat request, and whether a stream ends with the usage."""
    body = checked(raw, "openai.ChatCompletionRequest", _CHAT)
    if not body.get("messages"):
        raise Refusal(400, "[] is too short - 'messages'")
    native = {
        **_shared(body),
        "messages": native_messages(body["messages"]),
        "tools": chosen_tools(body),
        "format": response_format(body.get("response_format", {})),
        "think": think(body),
        "logprobs": body.get("logprobs", False),
        "top_logprobs": body.get("top_logprobs", 0),
    }
    return native_requests.chat_request(native), _wants_usage(body)


def completion_request(raw: bytes) -> tuple[JsonObject, bool]:
    """Return the native generate request, and whether a stream ends with the usage."""
    body = checked(raw, "openai.CompletionRequest", _COMPLETION)
    top = body.get("logprobs", 0)
    native = {
        **_shared(body),
        "prompt": _prompt(body.get("prompt", "")),
        "suffix": body.get("suffix", ""),
        "logprobs": top > 0,
        "top_logprobs": top,
    }
    return native_requests.generate_request(native), _wants_usage(body)


def embeddings_request(raw: bytes) -> tuple[JsonObject, bool]:
    """Return the native embed request, and whether vectors are packed."""
    body = checked(raw, "openai.EmbedRequest", _EMBED)
    encoding = body.get("encoding_format", "")
    if encoding and encoding.lower() not in {"float", "base64"}:
        raise Refusal(
            400,
            f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].",
        )
    texts = body.get("input")
    if texts is None or texts == []:
        raise Refusal(400, "invalid input")
    if isinstance(texts, list) and not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "input must be a text or a list of texts, not of tokens")
    native = {"model": body.get("model", ""), "input": [""] if texts == "" else texts}
    native["dimensions"] = body.get("dimensions", 0)
    native_requests.embed_inputs(native)
    return native_requests.embed_request(native), encoding.lower() == "base64"


def checked(raw: bytes, struct: str, fields: dict[str, str]) -> JsonObject:
    """Decode a body and check the types of its fields."""
    return golang.check_types(golang.decode(raw, when_empty="EOF"), struct, fields)


def chosen_tools(body: JsonObject) -> list[Any]:
    """Return the tools that a model may call: functions only, and none at all if it shall not choose."""
    if body.get("tool_choice") == "none":
        return []
    tools = body.get("tools", [])
    return [tool for tool in tools if not isinstance(tool, dict) or tool.get("type") in ("function", None)]


def think(body: JsonObject) -> bool | str | None:
    """Return the native `think` of a wanted effort, None if there is none."""
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    effort = effort or body.get("reasoning_effort")
    if not effort:
        return None
    if not isinstance(effort, str) or effort not in _EFFORTS:
        listed = ", ".join(f'"{known}"' for known in _EFFORTS)
        raise Refusal(400, f"invalid reasoning value: '{effort}' (must be one of {listed})")
    return _EFFORTS[effort]


def stops(given: Any) -> list[str]:
    """Return the texts at which an answer stops: one, or those of a list."""
    if isinstance(given, str):
        return [given]
    return [stop for stop in given if isinstance(stop, str)] if isinstance(given, list) else []


def _shared(body: JsonObject) -> JsonObject:
    if body.get("n", 1) != 1:
        raise Refusal(400, "n must be 1: each request has one answer")
    options: JsonObject = {"temperature": 1.0, "top_p": 1.0}
    options |= {native: body[key] for key, native in _OPTIONS.items() if key in body}
    if stop := stops(body.get("stop")):
        options["stop"] = stop
    return {
        "model": body.get("model", ""),
        "stream": body.get("stream", False),
        "options": options,
        "session": session(body),
    }


def session(body: JsonObject) -> Any:
    """Return what names the conversation: our own field, or that by which OpenAI's clients ask for a
    cache."""
    return body.get("session") or body.get("prompt_cache_key")


def _wants_usage(body: JsonObject) -> bool:
    return bool(body.get("stream_options", {}).get("include_usage"))


def _prompt(given: Any) -> Any:
    """Return a prompt that is a text, or a list of one text."""
    if isinstance(given, list):
        if len(given) != 1 or not isinstance(given[0], str):
            raise Refusal(400, "prompt must be one text, not several, and no tokens")
        return given[0]
    golang.check_types({"prompt": given}, "openai.CompletionRequest", {"prompt": "string"})
    return given


def response_format(wanted: JsonObject) -> Any:
    """Return the native format: "json", a schema, or None."""
    match wanted:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_schema"}:
            raise Refusal(400, "response_format.json_schema.schema must be an object")
        case _:
            return None
