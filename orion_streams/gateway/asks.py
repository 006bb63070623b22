"""Convert checked bodies of the native API to requests of the grid's contract.

All functions raise Refusal 400, or 404 without the name of a model. Nothing that Ollama would ignore fails.
"""

import string
from typing import Any, Literal

from msgspec import Struct

from orion_streams.gateway import native_requests
from orion_streams.gateway.refusal import JsonObject, Refusal, not_found
from orion_streams.protocol.requests_replies import Kind, keep_alive_ms

_LEAST_NUM_CTX = 4
MAX_SESSION = 128
_BASE64 = f"{string.ascii_letters}{string.digits}+/".encode()
_PADDINGS = ("", "=", "==")
_GENERATE_TEXTS = ("system", "suffix", "template")
_SWITCHES = ("truncate", "shift", "logprobs", "think")


class Ask(Struct, frozen=True):
    """What a call asks for. `fields`: those of a contract request, without the ones left unsaid; `stream`:
    the client wants the answer as it comes; `only`: nothing is to be answered, just this done. The
    request of both is one with an empty prompt, to unload with a `keep_alive` of 0. `may_not_think`: a
    model that cannot think answers all the same, without thoughts."""

    kind: Kind
    model: str
    fields: JsonObject
    stream: bool = False
    only: Literal["", "load", "unload"] = ""
    may_not_think: bool = False


def generate_ask(body: JsonObject, *, with_context: bool = True) -> Ask:
    """Convert a generate request. One without a prompt only loads, or unloads. `with_context`: the answer
    is to have a context to go on from, as Ollama's has unless the prompt is raw."""
    native_requests.check_logprobs(body)
    if not body["model"]:
        raise not_found("")
    native_requests.check_raw(body)
    stream = body.get("stream", True)
    if not body.get("prompt"):
        return _only(body, "generate", {"prompt": ""}, stream=stream)
    fields = {**_common(body), "prompt": body["prompt"], **_given(body, (*_GENERATE_TEXTS, "raw"))}
    if body.get("context") or (with_context and not body.get("raw")):
        fields["context"] = body.get("context", [])
    if images := _images(body):
        fields["images"] = images
    return _ask(body, "generate", fields, stream=stream)


def chat_ask(body: JsonObject) -> Ask:
    """Convert a chat request. One without messages only loads, or unloads; messages of unknown roles are
    dropped, and when none is left an empty one is answered, as Ollama does."""
    native_requests.check_logprobs(body)
    if not body["model"]:
        raise Refusal(400, "model is required")
    stream = body.get("stream", True)
    if not body["messages"]:
        return _only(body, "chat", {"kind": "generate", "prompt": ""}, stream=stream)
    messages = [_message(message) for message in native_requests.spoken(body["messages"])]
    fields = {**_common(body), **_given(body, ("tools",))}
    fields["messages"] = messages or [{"role": "user", "content": ""}]
    return _ask(body, "chat", fields, stream=stream)


def embed_ask(body: JsonObject) -> Ask:
    """Convert an embed request. One without a text only loads, or unloads."""
    if not body["model"]:
        raise not_found("")
    texts = native_requests.embed_inputs(body)
    if not texts:
        content: JsonObject = {"input": []}
        if native_requests.unloads(body):
            content = {"kind": "generate", "prompt": ""}
        return _only(body, "embed", content, stream=False)
    fields = {**_switches(body, ("truncate",)), **_keep_alive(body), **_options(body), "input": texts}
    if body.get("dimensions", 0) > 0:
        fields["dimensions"] = body["dimensions"]
    return _ask(body, "embed", fields, stream=False)


def embedding_ask(body: JsonObject) -> Ask:
    """Convert a request of the older embeddings API, which has one prompt."""
    if not body["model"]:
        raise Refusal(400, "model is required")
    known: JsonObject = {key: body[key] for key in ("model", "options", "keep_alive") if key in body}
    return embed_ask({**known, "input": body.get("prompt", "")})


def _only(body: JsonObject, kind: Kind, content: JsonObject, *, stream: bool) -> Ask:
    fields = {**_keep_alive(body), **_options(body), **content}
    only: Literal["load", "unload"] = "unload" if native_requests.unloads(body) else "load"
    return _ask(body, kind, fields, stream=stream, only=only)


def _ask(
    body: JsonObject,
    kind: Kind,
    fields: JsonObject,
    *,
    stream: bool,
    only: Literal["", "load", "unload"] = "",
) -> Ask:
    fields = {"kind": kind, "model": body["model"], "stream": stream and not only, **fields}
    return Ask(kind, body["model"], fields, stream, only)


def _common(body: JsonObject) -> JsonObject:
    """Return what a generate and a chat request have in common."""
    fields = {**_switches(body, _SWITCHES), **_keep_alive(body), **_options(body)}
    if isinstance(body.get("session"), str):
        fields["session"] = body["session"][:MAX_SESSION]
    wanted, refusal = native_requests.format_or_refusal(body)
    if refusal is not None:
        raise Refusal(400, refusal.message)
    if wanted is not None:
        fields["format"] = wanted
    if body.get("logprobs") and body.get("top_logprobs"):
        fields["top_logprobs"] = body["top_logprobs"]
    return fields


def _switches(body: JsonObject, names: tuple[str, ...]) -> JsonObject:
    """Return fields whose zero says something, but for `logprobs`, which is off by default."""
    return {name: body[name] for name in names if name in body and (body[name] or name != "logprobs")}


def _keep_alive(body: JsonObject) -> JsonObject:
    """Return how long the model is to stay as the contract reads it: what it cannot, is for ever."""
    seconds = native_requests.keep_alive_s(body)
    if seconds is None:
        return {}
    given = body["keep_alive"]
    text = given if isinstance(given, str) else str(round(seconds, 3)).removesuffix(".0")
    return {"keep_alive": text if keep_alive_ms(text) is not None else "-1"}


def _given(body: JsonObject, names: tuple[str, ...]) -> JsonObject:
    return {name: body[name] for name in names if body.get(name)}


def _options(body: JsonObject) -> JsonObject:
    """Return the options that are said, those of Ollama's in their type. Others may be anything: what the
    contract cannot carry is left out."""
    try:
        cast = {
            name: native_requests.cast_option(name, value)
            for name, value in body.get("options", {}).items()
            if value is not None
        }
    except Refusal as refusal:
        raise Refusal(400, refusal.message) from refusal
    carried = {name: value for name, value in cast.items() if _is_carried(value)}
    if "num_ctx" in carried:
        carried["num_ctx"] = max(_LEAST_NUM_CTX, carried["num_ctx"])
    return {"options": carried} if carried else {}


def _is_carried(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, bool | int | float | str)


def _message(message: JsonObject) -> JsonObject:
    """Reduce a message to what the contract knows."""
    reduced = {"role": message["role"].lower(), "content": message.get("content", "")}
    reduced |= _given(message, ("thinking", "tool_name", "tool_call_id"))
    if calls := [native_requests.native_tool_call(call) for call in message.get("tool_calls", ())]:
        reduced["tool_calls"] = calls
    if images := _images(message):
        reduced["images"] = images
    return reduced


def _images(holder: JsonObject) -> list[str]:
    """Return images in base64, of which each is checked. Line breaks in one are left out: programs that
    encode write lines of 76 characters."""
    images: list[str] = []
    for image in holder.get("images", ()):
        text = image.replace("\n", "").replace("\r", "") if isinstance(image, str) else ""
        if not _is_base64(text):
            raise Refusal(400, "an image must be a text in base64")
        images.append(text)
    return images


def _is_base64(text: str) -> bool:
    """Tell it without decoding, which takes seven times as long for a photo."""
    padding = text.encode(errors="replace").translate(None, _BASE64).decode()
    whole = bool(text) and len(text) % 4 == 0
    return whole and padding in _PADDINGS and text.endswith(padding)
