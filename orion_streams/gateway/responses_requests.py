"""Convert requests of `/v1/responses` to checked bodies of the native API. Nothing is kept between two:
the whole conversation comes with each. Raises Refusal 400."""

from typing import Any

from orion_streams.gateway import native_requests
from orion_streams.gateway.openai_messages import native_messages
from orion_streams.gateway.openai_requests import checked, chosen_tools, response_format, session, think
from orion_streams.gateway.refusal import JsonObject, Refusal

_RESPONSES = {
    "model": "string",
    "instructions": "string",
    "max_output_tokens": "int",
    "stream": "bool",
    "temperature": "float64",
    "top_p": "float64",
    "tools": "[]openai.ResponsesTool",
    "text": "map[string]interface {}",
    "previous_response_id": "string",
}


def responses_request(raw: bytes) -> tuple[JsonObject, JsonObject]:
    """Return the native chat request, and the body, which its answer repeats."""
    body = checked(raw, "openai.ResponsesRequest", _RESPONSES)
    if body.get("previous_response_id"):
        raise Refusal(400, "previous_response_id: nothing is kept here; send the whole conversation")
    options: JsonObject = {"temperature": body.get("temperature", 1.0)}
    if "top_p" in body:
        options["top_p"] = body["top_p"]
    if "max_output_tokens" in body:
        options["num_predict"] = body["max_output_tokens"]
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    native = {
        "model": body.get("model", ""),
        "session": session(body),
        "messages": native_messages([*system, *_messages(body.get("input", ""))]),
        "tools": chosen_tools({**body, "tools": [_tool(tool) for tool in body.get("tools", [])]}),
        "format": response_format(_format(body.get("text", {}))),
        "think": think(body),
        "options": options,
        "stream": body.get("stream", False),
    }
    return native_requests.chat_request(native), body


def _messages(asked: Any) -> list[JsonObject]:
    """Convert items to messages of a chat. What an assistant thought, said and called without anything
    between belongs to one message."""
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    if not isinstance(asked, list):
        raise Refusal(400, "input must be a string or array")
    messages: list[JsonObject] = []
    thoughts = ""
    for item in asked:
        match item:
            case {"type": "reasoning"}:
                thoughts = _thoughts(item)
            case {"type": "function_call", "call_id": call_id}:
                call = {"id": call_id, "function": item}
                if thoughts or not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "reasoning": thoughts})
                messages[-1].setdefault("tool_calls", []).append(call)
                thoughts = ""
            case {"type": "function_call_output", "call_id": call_id}:
                told = item.get("output")
                messages.append({"role": "tool", "tool_call_id": call_id, "content": told})
            case {"role": role} if item.get("type") in (None, "message"):
                messages.append({"role": role, "content": item.get("content"), "reasoning": thoughts})
                thoughts = ""
            case _:
                kind = item.get("type") if isinstance(item, dict) else None
                raise Refusal(400, f"an item of type '{kind}' is not understood here")
    return messages


def _thoughts(item: JsonObject) -> str:
    parts = item.get("summary") or item.get("content") or ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _tool(tool: Any) -> JsonObject:
    """Convert a tool, whose function is not wrapped; one of another type is dropped later."""
    if not isinstance(tool, dict):
        raise Refusal(400, "a tool must be an object")
    function = {
        key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None
    }
    return {"type": tool.get("type"), "function": function}


def _format(text: JsonObject) -> JsonObject:
    """Return `text.format` in the form of a chat's response_format."""
    wanted = text.get("format")
    wanted = wanted if isinstance(wanted, dict) else {}
    return {**wanted, "json_schema": wanted}
