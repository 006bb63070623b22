"""Check request bodies of Ollama's own API as it does, with its errors.

All functions raise Refusal 400, but where they say otherwise.
"""

from typing import Any

import msgspec

from orion_streams.gateway import golang
from orion_streams.gateway.refusal import JsonObject, Refusal

_COMMON = {
    "model": "string",
    "stream": "bool",
    "options": "map[string]interface {}",
    "truncate": "bool",
    "shift": "bool",
    "logprobs": "bool",
    "top_logprobs": "int",
}
_GENERATE = _COMMON | {
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "template": "string",
    "context": "[]int",
    "raw": "bool",
    "images": "[]api.ImageData",
}
_CHAT = _COMMON | {"messages": "[]api.Message", "tools": "api.Tools"}
_MESSAGE = {
    "role": "string",
    "content": "string",
    "thinking": "string",
    "images": "[]api.ImageData",
    "tool_calls": "[]api.ToolCall",
    "tool_name": "string",
    "tool_call_id": "string",
}
_TOOL = {"type": "string", "function": "api.ToolFunction"}
_EMBED = {
    "model": "string",
    "truncate": "bool",
    "dimensions": "int",
    "options": "map[string]interface {}",
}
_EMBEDDING = {"model": "string", "prompt": "string", "options": "map[string]interface {}"}
_NAMED = {"model": "string", "name": "string"}
_OPTIONS = {
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"), "integer"),
    **dict.fromkeys(("num_keep", "num_predict", "seed", "top_k", "repeat_last_n"), "integer"),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"), "float32"),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), "float32"),
    "use_mmap": "boolean",
    "stop": "array",
}

_MAX_FLOAT32 = 3.4e38
FOREVER_S = (2**63 - 1) / 1e9
"""The longest duration that fits into 64 bits of nanoseconds."""

_SPEAKERS = ("system", "user", "assistant", "tool")
_THINK_LEVELS = ("high", "medium", "low", "max")


def read(raw: bytes) -> Any:
    """Decode the JSON value of a body."""
    return golang.decode(raw, when_empty="missing request body")


def generate_request(decoded: Any) -> JsonObject:
    """Check the types of a generate request."""
    body = golang.check_types(decoded, "api.GenerateRequest", _GENERATE)
    return _checked_think(_completed(body))


def chat_request(decoded: Any) -> JsonObject:
    """Check the types of a chat request, its messages and tools."""
    body = golang.check_types(decoded, "api.ChatRequest", _CHAT)
    messages, tools = body.get("messages", []), body.get("tools", [])
    body["messages"] = [golang.check_types(each, "api.Alias", _MESSAGE) for each in messages]
    body["tools"] = [golang.check_types(each, "api.Tool", _TOOL) for each in tools]
    return _checked_think(_completed(body))


def embed_request(decoded: Any) -> JsonObject:
    """Check the types of an embed request."""
    return _completed(golang.check_types(decoded, "api.EmbedRequest", _EMBED))


def embedding_request(decoded: Any) -> JsonObject:
    """Check the types of a request of the older embeddings API."""
    return _completed(golang.check_types(decoded, "api.EmbeddingRequest", _EMBEDDING))


def named_request(decoded: Any, struct: str) -> str:
    """Return the only field of a request: `model`, or its older key `name`."""
    body = golang.check_types(decoded, struct, _NAMED)
    return str(body.get("model") or body.get("name") or "")


def embed_inputs(body: JsonObject) -> list[str]:
    """Return the texts to embed: one string, or a list of strings."""
    wanted = body.get("input")
    if wanted is None or wanted == "":
        return []
    if isinstance(wanted, str):
        return [wanted]
    if not isinstance(wanted, list) or not all(isinstance(text, str) for text in wanted):
        raise Refusal(400, "invalid input type")
    return wanted


def format_or_refusal(body: JsonObject) -> tuple[Any, Refusal | None]:
    """Return the format, or what it is refused with, which a real Ollama says only after the load."""
    wanted = body.get("format")
    if wanted is None or wanted == "":
        return None, None
    if wanted == "json" or isinstance(wanted, dict):
        return wanted, None
    raw = msgspec.json.encode(msgspec.json.encode(wanted).decode()).decode()
    expected = 'expected "json" or a valid JSON Schema object'
    return None, Refusal(500, f"invalid format: {raw}; {expected}")


def check_logprobs(body: JsonObject) -> None:
    if not 0 <= body.get("top_logprobs", 0) <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")


def _checked_think(body: JsonObject) -> JsonObject:
    think = body.get("think")
    if not (think is None or isinstance(think, bool) or think in _THINK_LEVELS):
        levels = ", ".join(_THINK_LEVELS)
        raise Refusal(400, f"invalid think value (must be true, false, or one of {levels})")
    return body


def _completed(body: JsonObject) -> JsonObject:
    """Add an empty `model`, and check `keep_alive`."""
    keep_alive_s(body)
    return {"model": "", **body}


def keep_alive_s(body: JsonObject) -> float | None:
    """Return for how many seconds the model is to stay, for ever if they are below 0; None: not said."""
    if "keep_alive" not in body:
        return None
    value = body["keep_alive"]
    if isinstance(value, bool | list | dict):
        raise Refusal(400, "Unsupported type of keep_alive")
    seconds = golang.parse_duration(value) if isinstance(value, str) else value
    return FOREVER_S if seconds < 0 else float(min(seconds, FOREVER_S))


def unloads(body: JsonObject) -> bool:
    """Tell whether a body without anything to answer unloads the model instead of loading it."""
    return keep_alive_s(body) == 0


def check_raw(body: JsonObject) -> None:
    if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
        raise Refusal(400, "raw mode does not support template, system, or context")


def cast_option(key: str, value: object) -> Any:
    """Convert an option to its type; leave an unknown one as it is. Raises Refusal 500 (sic)."""
    match _OPTIONS.get(key):
        case None:
            return value
        case "integer" if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "float32" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(max(-_MAX_FLOAT32, min(value, _MAX_FLOAT32)))
        case "array" if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        case wanted:
            raise Refusal(500, f'option "{key}" must be of type {wanted}')


def spoken(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the messages whose role is known; the others are dropped."""
    return [message for message in messages if message.get("role", "").lower() in _SPEAKERS]


def _arguments(text: str) -> Any:
    """Decode the arguments of a call, which a model may have broken off."""
    try:
        decoded = golang.decode(text.encode(), when_empty="")
    except Refusal as refusal:
        raise Refusal(400, f"invalid tool call arguments: {refusal.message}") from refusal
    return {} if decoded is None else decoded


def native_tool_call(call: Any) -> JsonObject:
    """Check a call that an assistant made; arguments that are a string of JSON become an object."""
    call = golang.in_small_letters(call) if isinstance(call, dict) else {}
    function = call.get("function")
    if not isinstance(function, dict):
        raise Refusal(400, "invalid tool call")
    function = golang.in_small_letters(function)
    if not isinstance(function.get("name"), str):
        raise Refusal(400, "invalid tool call")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _arguments(arguments)
    if not isinstance(arguments, dict):
        raise Refusal(400, "invalid tool call arguments")
    native: JsonObject = {"function": {"name": function["name"], "arguments": arguments}}
    call_id = call.get("id")
    return {"id": call_id, **native} if isinstance(call_id, str) and call_id else native
