"""Convert requests of Anthropic's `/v1/messages` to checked bodies of the native API.

All functions raise Refusal 400 for what they cannot read.
"""

from typing import Any

from orion_streams.gateway import golang, native_requests
from orion_streams.gateway.openai_messages import native_messages
from orion_streams.gateway.openai_requests import checked
from orion_streams.gateway.refusal import JsonObject, Refusal

_MESSAGES = {
    "model": "string",
    "messages": "[]anthropic.MessageParam",
    "max_tokens": "int",
    "stop_sequences": "[]string",
    "stream": "bool",
    "temperature": "float64",
    "top_p": "float64",
    "top_k": "int",
    "tools": "[]anthropic.Tool",
    "thinking": "map[string]interface {}",
    "tool_choice": "map[string]interface {}",
}


def messages_request(raw: bytes) -> JsonObject:
    """Return the native chat request."""
    body = checked(raw, "anthropic.MessagesRequest", _MESSAGES)
    if not body.get("model"):
        raise Refusal(400, "model is required")
    if body.get("max_tokens", 0) <= 0:
        raise Refusal(400, "max_tokens is required and must be positive")
    options: JsonObject = {"num_predict": body["max_tokens"]}
    options |= {key: body[key] for key in ("temperature", "top_p", "top_k") if key in body}
    if body.get("stop_sequences"):
        options["stop"] = body["stop_sequences"]
    native = {
        "model": body["model"],
        "messages": _conversation(body),
        "tools": _tools(body),
        "think": {"enabled": True, "disabled": False}.get(str(body.get("thinking", {}).get("type"))),
        "options": options,
        "stream": body.get("stream", False),
    }
    return native_requests.chat_request(native)


def count_tokens(raw: bytes) -> int:
    """Estimate the tokens of a request whose answer is not wanted."""
    body = checked(raw, "anthropic.MessagesRequest", _MESSAGES)
    if not body.get("model"):
        raise Refusal(400, "model is required")
    return estimated_tokens(_conversation(body), _tools(body))


def estimated_tokens(messages: list[JsonObject], tools: list[JsonObject]) -> int:
    """Estimate the tokens of a prompt as the router does: a quarter of its bytes, images left out."""
    told = [{key: value for key, value in message.items() if key != "images"} for message in messages]
    return len(golang.encode([*told, *tools])) // 4 + 1


def _conversation(body: JsonObject) -> list[JsonObject]:
    if not body.get("messages"):
        raise Refusal(400, "messages is required")
    system = _system(body.get("system"))
    return native_messages(
        [*system, *(part for message in body["messages"] for part in _messages(message))]
    )


def _system(text: Any) -> list[JsonObject]:
    return [{"role": "system", "content": text}] if text else []


def _messages(message: Any) -> list[JsonObject]:
    """Convert a message to messages of a chat: results of tools speak for themselves, before the rest."""
    if not isinstance(message, dict):
        raise Refusal(400, "invalid message format")
    message = golang.in_small_letters(message)
    role, content = message.get("role"), message.get("content")
    if not isinstance(content, list):
        return [{"role": role, "content": content}]
    results: list[JsonObject] = []
    thoughts: list[str] = []
    rest: JsonObject = {"role": role, "content": [], "tool_calls": []}
    for block in content:
        match block:
            case {"type": "tool_result"}:
                call_id = block.get("tool_use_id")
                results.append({"role": "tool", "tool_call_id": call_id, "content": block.get("content")})
            case {"type": "tool_use", "name": name}:
                function = {"name": name, "arguments": block.get("input")}
                rest["tool_calls"].append({"id": block.get("id"), "function": function})
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case {"type": "redacted_thinking"}:
                continue
            case _:
                rest["content"].append(block)
    rest["reasoning"] = "".join(thoughts)
    return [*results, rest] if rest["content"] or rest["tool_calls"] or not results else results


def _tools(body: JsonObject) -> list[JsonObject]:
    """Return the client's own tools; the others are Anthropic's to run."""
    if body.get("tool_choice", {}).get("type") == "none":
        return []
    tools = body.get("tools", [])
    if not all(isinstance(tool, dict) for tool in tools):
        raise Refusal(400, "a tool must be an object")
    return [_tool(tool) for tool in tools if tool.get("type") in (None, "custom")]


def _tool(tool: JsonObject) -> JsonObject:
    names = {"name": "name", "description": "description", "input_schema": "parameters"}
    function = {native: tool[key] for key, native in names.items() if tool.get(key) is not None}
    return {"type": "function", "function": function}
