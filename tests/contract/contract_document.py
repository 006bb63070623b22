"""Write docs/CONTRACT.md: the template beside this file, filled with tables and numbers of the structs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Any

import msgspec
from msgspec import inspect, structs

from orion_streams.config import Limits, Retention
from orion_streams.model.policy import GUEST_PREFIX, MAX_GUESTS, UNLISTED, Policy
from orion_streams.protocol import photo_parts
from orion_streams.protocol.replies import TERMINAL_KINDS, Reply
from orion_streams.protocol.requests_replies import (
    CODES,
    DISK_CODES,
    JSON_FIELDS,
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_ID_BYTES,
    Message,
    RequestEntry,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "CONTRACT.md"
TEMPLATE = Path(__file__).with_name("contract.template.md")


def document() -> str:
    """Return the text of docs/CONTRACT.md. KeyError for a placeholder that nothing fills."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        numbers() | CODES | DISK_CODES | tables()
    )


def numbers() -> dict[str, str]:
    """Return the limits and the defaults of streams.toml, by name."""
    policy = Policy()
    defaults = structs.asdict(policy) | structs.asdict(Limits()) | structs.asdict(Retention())
    defaults |= {"max_open_bytes": UNLISTED.max_open_bytes}
    return {name: f"{value:,}" for name, value in defaults.items() if isinstance(value, int)} | {
        "default_deadline_s": str(policy.default_deadline_ms // 1000),
        "max_deadline_hours": str(policy.max_deadline_ms // 3_600_000),
        "max_rest_hours": str(policy.max_rest_ms // 3_600_000),
        "dedupe_keep_minutes": str(policy.dedupe_keep_ms // 60_000),
        "max_parts_bytes": f"{photo_parts.MAX_BYTES:,}",
        "part_bytes": f"{photo_parts.PART_BYTES:,}",
        "parts_wait_s": str(photo_parts.PARTS_WAIT_MS // 1000),
        "guest_prefix": GUEST_PREFIX,
        "max_guests": f"{MAX_GUESTS:,}",
        "max_depth": str(MAX_DEPTH),
        "max_fields": str(MAX_FIELDS),
        "max_id_bytes": str(MAX_ID_BYTES),
    }


def tables() -> dict[str, str]:
    """Return the rows that are made from structs and kinds, by name."""
    kinds = [f"| `{kind}` | {meaning} |" for kind, meaning in TERMINAL_KINDS.items()]
    return {
        "request_fields": rows(RequestEntry, wire=True),
        "message_fields": rows(Message, wire=False),
        "reply_fields": rows(Reply, wire=False),
        "kinds": "\n".join(kinds),
    }


def rows(struct: type[msgspec.Struct], wire: bool) -> str:
    """Return a struct's fields as table rows: name, type with limits, default, meaning. `wire`: every value
    is text, so the type says which fields hold JSON."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    lines = []
    for field in info.fields:
        shape, meaning = described(field.type)
        kind = type_name(shape)
        if wire and (field.encode_name in JSON_FIELDS or field.encode_name == "format"):
            kind = f"JSON: {kind}"
        lines.append(f"| `{field.encode_name}` | {kind} | {default_of(field)} | {meaning} |")
    return "\n".join(lines)


def described(shape: inspect.Type) -> tuple[inspect.Type, str]:
    """Return a type without its metadata, and its description."""
    if isinstance(shape, inspect.Metadata):
        return shape.type, str((shape.extra_json_schema or {}).get("description", ""))
    return shape, ""


def default_of(field: inspect.Field) -> str:
    """Return what holds when the field is missing."""
    if field.required:
        return "required"
    value: Any = field.default
    if value is None or value in (msgspec.UNSET, msgspec.NODEFAULT) or value == "":
        return ""
    return f"`{int(value) if isinstance(value, bool) else value}`"


def type_name(shape: inspect.Type) -> str:
    """Return a type in words, with its limits."""
    return WORDS[type(shape)](shape)


def integer(shape: inspect.IntType) -> str:
    """Return an integer's range."""
    if shape.ge is None:
        return "integer"
    return f"integer from {shape.ge}" if shape.le is None else f"integer, {shape.ge} to {shape.le}"


def text(shape: inspect.StrType) -> str:
    """Return a text's pattern or its largest length."""
    if shape.pattern:
        inside = shape.pattern.removeprefix(r"\A").removesuffix(r"\Z")
        return f"text, `{inside}`"
    return f"text of at most {shape.max_length}" if shape.max_length else "text"


def mapping(shape: inspect.DictType) -> str:
    """Return what a JSON object holds."""
    anything = isinstance(shape.value_type, inspect.AnyType)
    return "object" if anything else f"object of {type_name(shape.value_type)}"


def absent(shape: inspect.Type) -> bool:
    """Whether a type only says that the field may be missing."""
    return isinstance(shape, inspect.NoneType) or getattr(shape, "cls", None) is msgspec.UnsetType


def joined(words: Iterable[str]) -> str:
    """Join as in "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


WORDS: dict[type[inspect.Type], Callable[[Any], str]] = {
    inspect.Metadata: lambda shape: type_name(shape.type),
    inspect.UnionType: lambda shape: joined(type_name(each) for each in shape.types if not absent(each)),
    inspect.LiteralType: lambda shape: joined(f"`{value}`" for value in shape.values),
    inspect.IntType: integer,
    inspect.StrType: text,
    inspect.BoolType: lambda _: "bool",
    inspect.FloatType: lambda _: "number",
    inspect.ListType: lambda shape: f"list of {type_name(shape.item_type)}",
    inspect.VarTupleType: lambda shape: f"list of {type_name(shape.item_type)}",
    inspect.DictType: mapping,
    inspect.StructType: lambda _: "messages",
    inspect.AnyType: lambda _: "`json` or an object",
}
"""How each type is written."""


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
