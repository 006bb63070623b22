"""Draw a value that satisfies a JSON schema from a seeded generator.

Supports objects, arrays, strings, numbers, booleans, null, `enum`, `const`, `anyOf`/`oneOf`/`allOf`, and
`$ref` into the schema itself; ignores other keywords (`pattern`, `format`, …), as most grammars do.
"""

import math
import random
from typing import Any

from orion_streams.gateway.refusal import JsonObject

# A schema may refer to itself for ever: below the first depth only what is required is made,
# below the second nothing.
_MAX_DEPTH = 6
_BOTTOM = 12
_MAX_ITEMS = 32
_MAX_TEXT = 1_000


def sample(schema: object, rng: random.Random) -> object:
    """Draw a value for `schema`; an empty object for an empty or unreadable schema."""
    return _value(schema, schema, rng, 0)


def anything(rng: random.Random) -> JsonObject:
    """Draw a small object, for JSON without a schema."""
    keys = rng.sample(["name", "count", "items", "ok", "note"], k=rng.randint(1, 3))
    return {key: rng.choice([rng.randint(0, 99), True, "signal", ["a", "b"]]) for key in keys}


def _value(schema: object, root: object, rng: random.Random, depth: int) -> object:
    node = _resolved(schema, root)
    if depth > _BOTTOM:
        return None
    if "const" in node:
        return node["const"]
    if node.get("enum"):
        return rng.choice(node["enum"])
    for keyword in ("anyOf", "oneOf", "allOf"):
        if node.get(keyword):
            # Far down take the last branch: unions tend to end with null.
            branch = -1 if depth > _MAX_DEPTH else 0
            return _value(node[keyword][branch], root, rng, depth + 1)
    return _of_type(_type_of(node), node, root, rng, depth)


def _of_type(kind: str, node: JsonObject, root: object, rng: random.Random, depth: int) -> object:
    match kind:
        case "string":
            return _text(node, rng)
        case "integer":
            low, high = _bounds(node, 1)
            return rng.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))
        case "number":
            low, high = _bounds(node, 0.01)
            return min(max(round(rng.uniform(low, high), 2), low), high)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case "array":
            count = max(int(node.get("minItems", 0)), 0 if depth > _MAX_DEPTH else 1)
            count = min(count, int(node.get("maxItems", count)), _MAX_ITEMS)
            return [_value(node.get("items", {}), root, rng, depth + 1) for _ in range(count)]
        case _:
            return _object(node, root, rng, depth)


def _object(node: JsonObject, root: object, rng: random.Random, depth: int) -> JsonObject:
    properties: JsonObject = node.get("properties") or {}
    required = node.get("required", ())
    wanted = [key for key in properties if depth <= _MAX_DEPTH or key in required]
    return {key: _value(properties[key], root, rng, depth + 1) for key in wanted}


def _type_of(node: JsonObject) -> str:
    kind = node.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if isinstance(kind, str):
        return kind
    return "array" if "items" in node else "object"


def _text(node: JsonObject, rng: random.Random) -> str:
    text = rng.choice(["steady", "warm", "open", "quiet", "bright"])
    shortest = min(int(node.get("minLength", 0)), _MAX_TEXT)
    return text.ljust(shortest, ".")[: node.get("maxLength")]


def _bounds(node: JsonObject, step: float) -> tuple[float, float]:
    """Return the least and the greatest allowed number; `step`: distance from an exclusive bound."""
    low = node.get("minimum", node["exclusiveMinimum"] + step if "exclusiveMinimum" in node else 0)
    high = node.get("maximum", node["exclusiveMaximum"] - step if "exclusiveMaximum" in node else low + 100)
    return (low if low <= high else high), high


def _resolved(schema: object, root: object) -> JsonObject:
    """Return the schema as an object, with a local `$ref` resolved once."""
    node: Any = schema if isinstance(schema, dict) else {}
    reference = node.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return dict(node)
    target: Any = root
    for part in reference.lstrip("#/").split("/") if reference != "#" else ():
        target = target.get(part, {}) if isinstance(target, dict) else {}
    return dict(target) if isinstance(target, dict) else {}
