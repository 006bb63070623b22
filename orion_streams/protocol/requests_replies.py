"""The clients' contract: the fields of a request entry, limits and codes. A reply's stand in `replies`.

docs/CONTRACT.md is generated from the structs and tables of both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from orion_streams.errors import ContractError
from orion_streams.model import toml_values
from orion_streams.model.names import full_model_name
from orion_streams.model.policy import ModelName
from orion_streams.protocol.photo_parts import MAX_PARTS, PartId, check_places

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
MAX_ID_BYTES = 128
MAX_FIELDS = 64
MAX_NUM_CTX = 10_000_000
FOREVER_MS = 2**53
IGNORED_MAX, IGNORED_LENGTH = 8, 64
MAX_MESSAGE = 300
"""Characters of the sentence in a rejected reply: it may quote what the client sent."""

Kind = Literal["generate", "chat", "embed"]


class Message(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a chat. Other members are refused."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], Meta(description="Who speaks.")]
    content: Annotated[str, Meta(description="What is said.")] = ""
    thinking: Annotated[
        str | UnsetType, Meta(description="assistant: the thoughts before the content.")
    ] = UNSET
    images: Annotated[list[str] | UnsetType, Meta(description="user: images, in base64.")] = UNSET
    tool_calls: Annotated[
        list[dict[str, Any]] | UnsetType,
        Meta(description="assistant: the calls it asked for, as they stood in the done reply."),
    ] = UNSET
    tool_name: Annotated[str | UnsetType, Meta(description="tool: whose result this is.")] = UNSET
    tool_call_id: Annotated[str | UnsetType, Meta(description="tool: which call it answers.")] = UNSET


class RequestEntry(Struct, frozen=True, kw_only=True):
    """An entry of `requests:<client>`. Every field is a string on the wire; JSON where it says so."""

    id: Annotated[
        str,
        Meta(
            description="Names the request; a resend under the same id starts nothing. "
            f"Printable text of at most {MAX_ID_BYTES} bytes. Default: the entry's own id."
        ),
    ] = ""
    model: Annotated[ModelName, Meta(description="Ollama's name; `model` means `model:latest`.")]
    kind: Annotated[
        Kind | None,
        Meta(
            description="Default: `chat` when there are messages, `embed` when there is `input`, "
            "else `generate`."
        ),
    ] = None
    prompt: Annotated[
        str | None,
        Meta(
            description="The text of a generate request (empty: only load the model), or one text to embed."
        ),
    ] = None
    system: Annotated[str | None, Meta(description="System prompt of a generate request.")] = None
    messages: Annotated[
        list[Message] | None,
        Meta(description="JSON list of {role, content, images, tool_calls, …} of a chat."),
    ] = None
    input: Annotated[
        list[str] | None, Meta(description="JSON list of texts to embed, instead of `prompt`.")
    ] = None
    tier: Annotated[
        int,
        Meta(
            ge=0,
            le=9,
            description="Preferred tier: 1 validation, 2 heavy analysis; 0 no wish. "
            "Another tier's node takes it when that is faster, unless policy.spill_forbidden names it.",
        ),
    ] = 0
    stream: Annotated[
        bool, Meta(description="`1`: token replies as they come; `0`: only the terminal reply.")
    ] = True
    options: Annotated[
        dict[str, bool | int | float | str | list[str]] | None,
        Meta(
            description="JSON object of Ollama's options, such as temperature or num_predict. What "
            "streams.toml pins for the model holds; options that would reload it are left out, "
            "but for num_ctx."
        ),
    ] = None
    format: Annotated[Any, Meta(description="`json`, or a JSON schema that the answer must follow.")] = None
    tools: Annotated[
        list[dict[str, Any]] | None, Meta(description="JSON list of tools a chat may call.")
    ] = None
    images: Annotated[
        list[str] | None,
        Meta(description="JSON list of base64 images of a generate request (a chat has them in "
        "its messages)."),
    ] = None  # fmt: skip
    parts: Annotated[
        Annotated[list[PartId], Meta(max_length=MAX_PARTS)] | None,
        Meta(description="JSON list of ids: where large images stand, see Photos."),
    ] = None
    think: Annotated[
        bool | Literal["low", "medium", "high", "max"] | None,
        Meta(description="Ask a thinking model to think; its thoughts come as `thinking`."),
    ] = None
    raw: Annotated[
        bool | None,
        Meta(description="generate: the model gets the prompt as it is, without a template."),
    ] = None
    suffix: Annotated[str | None, Meta(description="generate: what comes after the answer.")] = None
    template: Annotated[str | None, Meta(description="generate: instead of the model's own.")] = None
    context: Annotated[
        list[int] | None,
        Meta(
            description="generate: JSON list, the `context` of an earlier answer to go on from; `[]` asks "
            "for one."
        ),
    ] = None
    truncate: Annotated[
        bool | None, Meta(description="`0`: refuse a prompt that does not fit, instead of cutting it.")
    ] = None
    shift: Annotated[
        bool | None, Meta(description="`0`: end when the context is full, instead of forgetting its begin.")
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="embed: length of the vectors; refused for a model that has shorter ones."),
    ] = None
    logprobs: Annotated[bool | None, Meta(description="Ask for the probabilities of tokens.")] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None, Meta(description="So many alternatives of each token.")
    ] = None
    keep_alive: Annotated[
        str | None,
        Meta(
            description="How long the model stays in memory without work, such as `10m`, seconds, or `-1` "
            "for as long as may be. It only makes the node's own time longer, up to the client's "
            "max_keep_alive_ms. `0` with an empty prompt unloads it where it is."
        ),
    ] = None
    priority: Annotated[
        int, Meta(ge=-9, le=9, description="Higher goes first; within one, the earliest deadline.")
    ] = 0
    deadline_ms: Annotated[
        int,
        Meta(
            ge=0,
            description="From the XADD; past it the request is `expired`. 0: policy.default_deadline_ms; "
            "at most policy.max_deadline_ms.",
        ),
    ] = 0
    session: Annotated[
        str,
        Meta(
            max_length=128,
            description="A conversation's name: where its last prompt is cached counts as faster.",
        ),
    ] = ""
    notify: Annotated[
        bool, Meta(description="`1`: `accepted` replies say where it stands while it waits.")
    ] = False


BODY_FIELDS = tuple(
    name
    for name in RequestEntry.__struct_fields__
    if name not in ("id", "tier", "priority", "deadline_ms", "session", "notify")
)
"""What a node needs of a request: copied from entry to entry by the server, never into the log."""

OTHER_ENTRIES = frozenset(
    {b"cancel", b"list", b"guest", b"remove_guest", b"drain", b"resume", b"pull", b"remove"}
)
"""Fields that make an entry something else than a request."""

JSON_FIELDS = frozenset({"messages", "input", "options", "tools", "images", "parts", "context"})


CODES = {
    # rejected
    "bad_utf8": "A field is not valid UTF-8.",
    "bad_id": f"The id is empty, longer than {MAX_ID_BYTES} bytes or has control characters.",
    "bad_field": "A field is missing, has the wrong type or lies outside its limits.",
    "bad_json": "A JSON field cannot be read, is nested too deep or has a number too large.",
    "too_large": f"The entry is larger than limits.entry_max_bytes or has over {MAX_FIELDS} fields.",
    "unknown_model": "No inference node that the request may run on has the model installed.",
    "model_too_large": "With its context the model fits into no inference node, even an empty one.",
    "incapable": "No node that has the model can do with it what is asked.",
    "unknown_id": "No request with this id is known, so there is nothing to cancel.",
    "not_allowed": "Only an operator (operator = true) may list requests, cancel those of others, or let a "
    "node rest, and change what models it has; only the gateway has guests.",
    "unknown_node": "No node with this name answers requests.",
    "last_node": "No other node answers just now: without it all requests wait.",
    "node_away": "The node does not answer just now: nothing is ordered.",
    "pull_off": "The model's registry is not in pull_from of the router's streams.toml.",
    "model_busy": "The node is to keep the model, works with it, or alone has what is asked for.",
    "last_copy": "No other node has the model, and the last copy was not to go (`last 0`).",
    "disk_busy": "The node pulls or removes a model just now: it does one at a time.",
    "queue_full": "As many requests of this client are open as it may have (max_open, max_open_bytes).",
    # error
    "refused": "Ollama refused the request itself; the message holds its words.",
    "attempts_exhausted": "policy.max_attempts attempts failed; the message holds the last reason.",
    "body_gone": "The request's entry was deleted before it could run.",
    "parts_gone": "A part of its images is missing, or is none.",
    "answer_too_large": "The answer grew beyond limits.answer_max_bytes: ask for less at a time, such as "
    "fewer texts to embed.",
}
"""Stable codes of `rejected` and `error` replies, with the sentence that goes along."""
DISK_CODES = {
    "gone": "The node's agent no longer has the order, is too old to know it, or left before it "
    "read it; or its node is no longer one that answers requests.",
    "overdue": "It took longer than limits.pull_deadline_ms, or a removal than limits.load_deadline_ms.",
    "pull_failed": "Ollama could not pull the model.",
    "registry_away": "The node's Ollama does not reach the registry.",
    "registry_lacks": "The registry has no such model.",
    "no_space": "The model does not fit onto the node's disk.",
    "pull_stalled": "Ollama said nothing for limits.pull_idle_ms.",
    "remove_failed": "Ollama could not remove the model.",
    "agent_restarted": "The node's agent was restarted: pull again, and Ollama goes on where it was.",
    "agent_leaving": "The node's agent was stopped: pull again, and Ollama goes on where it was.",
}
"""Codes of `error` replies to a pull or a removal."""


def is_model_name(text: str) -> bool:
    """Whether a text may be a model's name."""
    try:
        return bool(msgspec.convert(text, ModelName))
    except msgspec.ValidationError:
        return False


def decode_fields(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return an entry's fields as text. Raises ContractError bad_utf8 or too_large."""
    if len(fields) > MAX_FIELDS:
        raise ContractError("too_large", f"{len(fields)} fields; at most {MAX_FIELDS}")
    try:
        return {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        raise ContractError("bad_utf8", "the entry has a field that is not valid UTF-8") from None


def unknown_fields(fields: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """Return the names of fields that no request has, the first few, cut. Of an entry that is none, all but
    its own are ignored anyway."""
    if not fields.keys().isdisjoint(OTHER_ENTRIES):
        return ()
    known = {name.encode() for name in RequestEntry.__struct_fields__}
    unknown = [name.decode(errors="replace")[:IGNORED_LENGTH] for name in fields if name not in known]
    return tuple(unknown[:IGNORED_MAX])


def request_id(fields: Mapping[bytes, bytes], entry_id: str) -> str:
    """Return the id to answer under, whatever else is wrong with the entry: its own, or that which it
    cancels of its client's, if it is usable."""
    cancelled = b"" if b"client" in fields else fields.get(b"cancel")
    raw = cancelled or fields.get(b"id", b"")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return entry_id
    return text if is_usable(text) else entry_id


def model_of(fields: Mapping[bytes, bytes]) -> str:
    """Return the full name of the model that an entry asks for; "" if it names none."""
    try:
        name = msgspec.convert(fields.get(b"model", b"").decode(), ModelName)
    except (UnicodeDecodeError, msgspec.ValidationError):
        return ""
    return full_model_name(name)


def is_usable(request_id: str) -> bool:
    """Whether a text may name a request."""
    return 0 < len(request_id.encode()) <= MAX_ID_BYTES and request_id.isprintable()


def parse_request(fields: Mapping[str, str]) -> RequestEntry:
    """Check a request entry's fields. Unknown fields are ignored. Raises ContractError."""
    values: dict[str, Any] = {}
    for name in RequestEntry.__struct_fields__:
        text = fields.get(name)
        if text is None:
            continue
        if name in JSON_FIELDS or (name == "format" and text != "json"):
            values[name] = parse_json(name, text)
        else:
            values[name] = text
    if not is_usable(values.get("id", "-")):
        raise ContractError("bad_id", CODES["bad_id"])
    try:
        entry = msgspec.convert(values, RequestEntry, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        place = where.strip("`").removeprefix("$.")
        sentence = f"{place}: {what}" if place else what
        raise ContractError("bad_field", sentence[:MAX_MESSAGE]) from None
    check_content(entry)
    return entry


def parse_json(name: str, text: str) -> object:
    """Parse a JSON field, bounded in depth and size of numbers. Raises ContractError bad_json."""
    try:
        value = msgspec.json.decode(text)
        check_bounds(value, MAX_DEPTH)
    except RecursionError:
        raise ContractError("bad_json", f"{name}: nested too deep") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise ContractError("bad_json", f"{name}: {error}"[:MAX_MESSAGE]) from None
    return value


def check_bounds(value: object, depth: int) -> None:
    """Check JSON for depth and 64-bit integers. Raises ValueError."""
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError("a number is too large")
    elif isinstance(value, list | dict):
        if depth == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for inner in value.values() if isinstance(value, dict) else value:
            check_bounds(inner, depth - 1)


def check_content(entry: RequestEntry) -> None:
    """Check that the content fits the kind, and values that have a grammar. Raises ContractError
    bad_field."""
    check_kind(entry)
    if entry.keep_alive is not None and keep_alive_ms(entry.keep_alive) is None:
        raise ContractError("bad_field", f"keep_alive: expected {toml_values.KEEP_ALIVE}")
    num_ctx = (entry.options or {}).get("num_ctx", 1)
    if not isinstance(num_ctx, int) or isinstance(num_ctx, bool) or not 1 <= num_ctx <= MAX_NUM_CTX:
        raise ContractError("bad_field", f"options.num_ctx: expected an integer, 1 to {MAX_NUM_CTX}")
    if entry.format is not None and not (entry.format == "json" or isinstance(entry.format, dict)):
        raise ContractError("bad_field", "format: expected `json` or a JSON schema object")
    check_places(images_of(entry), entry.parts or ())


def check_kind(entry: RequestEntry) -> None:
    """Check that the content fits the kind. Raises ContractError bad_field."""
    needs = {
        "generate": ("prompt",),
        "chat": ("messages",),
        "embed": ("prompt", "input"),
    }[kind_of(entry)]
    given = [name for name in ("prompt", "messages", "input") if getattr(entry, name) is not None]
    if len(given) != 1 or given[0] not in needs:
        raise ContractError(
            "bad_field",
            f"kind {kind_of(entry)} takes exactly one of {' or '.join(needs)}, "
            f"got {' and '.join(given) or 'none'}",
        )


def images_of(entry: RequestEntry) -> list[str]:
    """Return all images of a request, in base64 or as references to its parts."""
    lists = [entry.images or [], *(message.images or [] for message in entry.messages or ())]
    return [image for images in lists for image in images]


def keep_alive_ms(text: str) -> int | None:
    """Return a request's `keep_alive` in ms, FOREVER_MS for a negative one; None for no duration."""
    seconds = re.fullmatch(r"[-+]?[0-9]{1,9}(?:\.[0-9]*)?", text)
    total_ms = round(float(text) * 1000) if seconds else toml_values.duration_ms(text)
    return FOREVER_MS if total_ms is not None and total_ms < 0 else total_ms


def unloads(entry: RequestEntry) -> bool:
    """Whether nothing is asked, and a `keep_alive` of 0 lets the model go."""
    return (entry.prompt == "" or entry.messages == []) and keep_alive_ms(entry.keep_alive or "") == 0


def kind_of(entry: RequestEntry) -> Kind:
    """Return the kind that was asked for, or that the content shows."""
    if entry.kind is not None:
        return entry.kind
    if entry.messages is not None:
        return "chat"
    return "embed" if entry.input is not None else "generate"
