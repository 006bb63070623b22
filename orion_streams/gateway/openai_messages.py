"""Convert messages of OpenAI's APIs to Ollama's.

All functions raise Refusal 400 for what they cannot read.
"""

from typing import Any

from orion_streams.gateway import golang
from orion_streams.gateway.answers import put
from orion_streams.gateway.native_requests import native_tool_call
from orion_streams.gateway.refusal import JsonObject, Refusal

_ROLES = {"developer": "system", "function": "tool"}
_THOUGHTS = ("reasoning", "reasoning_content", "thinking")
_TYPES = {type(None): "<nil>", bool: "bool", dict: "map[string]interface {}"}
_ADDRESS = "an image must come with the message, as a data URI: none is fetched from an address"


def native_messages(messages: list[Any]) -> list[JsonObject]:
    """Convert a conversation. The result of a tool is named after the call it answers."""
    called: dict[str, str] = {}
    return [_native_message(message, called) for message in messages]


def _native_message(message: Any, called: dict[str, str]) -> JsonObject:
    if not isinstance(message, dict):
        raise Refusal(400, "invalid message format")
    message = golang.in_small_letters(message)
    role = message.get("role", "")
    if not isinstance(role, str):
        raise Refusal(400, "invalid message format")
    native: JsonObject = {"role": _ROLES.get(role, role), **content(message.get("content"))}
    if role == "assistant":
        put(native, "thinking", _first_text(message, _THOUGHTS))
        put(native, "tool_calls", _calls(message.get("tool_calls")))
        called |= {call["id"]: call["function"]["name"] for call in native.get("tool_calls", ())}
    if native["role"] == "tool":
        call_id = _first_text(message, ("tool_call_id",))
        put(native, "tool_name", _first_text(message, ("name",)) or called.get(call_id, ""))
        put(native, "tool_call_id", call_id)
    return native


def _calls(calls: Any) -> list[JsonObject]:
    if not isinstance(calls, list | None):
        raise Refusal(400, "invalid message format")
    return [{"id": "", **native_tool_call(call)} for call in calls or ()]


def _first_text(message: JsonObject, keys: tuple[str, ...]) -> str:
    texts = (message.get(key) for key in keys)
    return next((text for text in texts if isinstance(text, str) and text), "")


def content(given: Any) -> JsonObject:
    """Return `content` and `images` of one message: the texts of a list of parts joined, its images in
    order."""
    if given is None or isinstance(given, str):
        return {"content": given or ""}
    if not isinstance(given, list):
        raise Refusal(400, f"invalid message content type: {_TYPES.get(type(given), 'float64')}")
    texts: list[str] = []
    images: list[str] = []
    for part in given:
        match part:
            case str():
                texts.append(part)
            case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "image_url" | "input_image", "image_url": {"url": str(url)} | str(url)}:
                images.append(_image(url))
            case {"type": "image", "source": {"type": "base64", "data": str(data)}}:
                images.append(data)
            case {"type": "image", "source": {"type": "url"}}:
                raise Refusal(400, _ADDRESS)
            case {"type": str(kind)} if kind not in ("text", "image_url"):
                raise Refusal(400, f"a part of a message of type '{kind}' is not understood here")
            case _:
                raise Refusal(400, "invalid message format")
    native: JsonObject = {"content": "\n".join(texts)}
    put(native, "images", images)
    return native


def _image(url: str) -> str:
    """Return the base64 of a data URI, or what is bare base64 already."""
    if url[:8].lower().startswith(("http://", "https://")):
        raise Refusal(400, _ADDRESS)
    head, _, data = url.partition(",")
    if not head.startswith("data:"):
        return url
    if not head.endswith(";base64"):
        raise Refusal(400, "invalid image input")
    return data
