"""Writes docs/CONTRACT.md from the structs: `python -m orion_streams.contract_docs > docs/CONTRACT.md`.

`python -m orion_streams.contract_docs --check docs/CONTRACT.md` exits 1 when the file is not what would
be written.
"""

# ruff: noqa: E501 - lines of the document, as wide as its tables need them
from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from orion_streams.config import Limits, Retention
from orion_streams.model.policy import Policy
from orion_streams.protocol.requests_replies import (
    CODES,
    JSON_FIELDS,
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_ID_BYTES,
    TERMINAL_KINDS,
    Message,
    Reply,
    RequestEntry,
)

POLICY, LIMITS, RETENTION = Policy(), Limits(), Retention()

WHAT_TO_DO = {
    "bad_utf8": ("rejected", "Send UTF-8."),
    "bad_id": ("rejected", "Choose another id. The reply stands under the entry's own id."),
    "bad_field": ("rejected", "The message names the field and what was expected."),
    "bad_json": ("rejected", "The message names the field and the place."),
    "too_large": ("rejected", "Send less, or raise limits.entry_max_bytes."),
    "unknown_model": ("rejected, error", "Install the model on a node with inference (`ollama pull`)."),
    "model_too_large": ("rejected, error", "Ask for a shorter `num_ctx`, a smaller model or quantization."),
    "unknown_id": ("rejected", "Nothing: it answers a `cancel`, never a request."),
    "queue_full": ("rejected", "Send it again later; the id is still free."),
    "refused": ("error", "Mend the request: a second node, or the only one twice, refused it alike."),
    "attempts_exhausted": ("error", "Look at the nodes (`orion nodes`), then ask under a new id."),
    "body_gone": ("error", "Ask under a new id; let nobody but the router trim `requests:*`."),
    "answer_too_large": ("error", "Ask for less (`num_predict`), or raise limits.answer_max_bytes."),
}
"""Each code's reply kind and what its reader should do."""


def document() -> str:
    """The whole of docs/CONTRACT.md."""
    return (
        f"{OPENING}\n{rows(RequestEntry, wire=True)}\n{LIMITS_TEXT}\n{rows(Message, wire=False)}\n"
        f"{EXAMPLES}\n{rows(Reply, wire=False)}\n{KINDS_TEXT}"
        + "".join(f"| `{kind}` | {meaning} |\n" for kind, meaning in TERMINAL_KINDS.items())
        + CODES_TEXT
        + "".join(
            f"| `{code}` | {WHAT_TO_DO[code][0]} | {meaning} | {WHAT_TO_DO[code][1]} |\n"
            for code, meaning in CODES.items()
        )
        + PROMISES
    )


OPENING = """\
# The contract between ORION's Brain and the grid

<!-- Generated from orion_streams/contract.py and config.py; do not edit. Write it anew with
     python -m orion_streams.contract_docs > docs/CONTRACT.md -->

A client asks by one entry in its request stream and reads the answer from its reply stream. Any language
with a Redis client will do, or none: `redis-cli` is enough.

```
XADD orion:requests:brain * id q1 model gemma3:270m prompt "Why is the sky blue?"
XREAD BLOCK 0 STREAMS orion:replies:brain 0
```

The second command shows the replies from the stream's beginning; to go on, repeat it with the id of the last
entry that was read. `brain` is the client's name, one of `clients.names` in
streams.toml (the stream of any other name is never read), `orion:` the prefix.
All numbers below are the defaults of streams.toml.

From Python:

```python
from orion_streams import Client

client = Client("redis://orion-master:6379/0", client="brain")
print(client.generate("gemma3:270m", "Why is the sky blue?").text)
```

## A request: one entry of `requests:<client>`

Every value is text in UTF-8; where the type says JSON, it is JSON text. Numbers are decimal digits, `bool` is
`1`, `0`, `true` or `false`. A field that stands more than once counts as it stood last. Fields that are not
listed are ignored (but count in the size, and must be UTF-8).
"""

LIMITS_TEXT = f"""\
Limits: an entry has at most {LIMITS.entry_max_bytes:,} bytes of names and values (limits.entry_max_bytes) and
{MAX_FIELDS} fields; JSON is nested at most {MAX_DEPTH} deep and its integers fit in 64 bits with a sign; NaN and Infinity are
not JSON. An answer has at most {LIMITS.num_predict_max:,} tokens (limits.num_predict_max) and {LIMITS.answer_max_bytes:,} bytes
(limits.answer_max_bytes).

Each kind takes its own content, exactly one of it:

| kind | content | also |
|---|---|---|
| `generate` | `prompt` | `system`, `images`, `format`, `options`, `think` |
| `chat` | `messages` | `tools`, `format`, `options`, `think` |
| `embed` | `prompt` or `input` | `options` |

### A message of `messages`
"""

EXAMPLES = """\
```
[{"role": "system", "content": "Answer in one sentence."},
 {"role": "user", "content": "What is this?", "images": ["iVBORw0KGgo…"]}]
```

### The other JSON fields

```
options   {"temperature": 0, "num_predict": 200, "stop": ["\\n\\n"]}
format    json
format    {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
tools     [{"type": "function", "function": {"name": "look", "description": "…",
            "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}}}]
images    ["iVBORw0KGgo…"]                     base64, without a data: prefix
input     ["first text", "second text"]        one vector per text, in this order
```

`format` is the word `json` itself, or a JSON schema. What `options` means is Ollama's: unknown ones are
ignored there, wrong types refused (`refused`). Another `num_ctx` than a model runs with reloads it.

### Cancel: an entry of its own

```
XADD orion:requests:brain * cancel q1
```

All other fields of such an entry are ignored. An open request ends with a `cancelled` reply, unless its end
was faster; an id that is closed gets `known`; one that nobody knows `rejected` with the code `unknown_id`.

## A reply: one entry of `replies:<client>`

Fields with nothing to say (an empty text, a zero) are left out; `token` and `done` always have `text`. Fields
and kinds that you do not know are to be ignored: there may be more some day.
"""

KINDS_TEXT = """\
`tool_calls`: `[{"function": {"name": "look", "arguments": {"where": "left"}}}]`. `vectors`:
`[[0.12, -0.5, …], …]`. `message` has at most a few hundred characters.

| kind | meaning |
|---|---|
| `token` | the next piece of the answer; only if `stream` |
| `restarted` | attempt `attempt` begins on `node`: forget the pieces of the one before |
"""

CODES_TEXT = """
After `token` and `restarted` more is to come; every other kind is the last word on its entry.

### Codes

| code | kind | meaning | what to do |
|---|---|---|---|
"""

PROMISES = f"""
Codes are stable; `message` is a sentence for a person and may change.

## What is promised

- **One end.** Every accepted (client, id) gets exactly one of `done`, `error`, `expired` and `cancelled`.
  What was never accepted gets one `rejected` and leaves its id unused. Only where the server itself lost
  entries that it had acknowledged may an end be made a second time: drop it by its id.
- **No glued halves.** Within an `attempt`, `seq` counts 1, 2, 3 … without a gap, in order. Each further
  attempt, on whatever node, is announced by `restarted` before its first token. The tokens of the attempt
  that ends `done`, joined, are the `text` of the `done` reply, which is whole: who does not stream reads that
  one entry. `thinking` and `tool_calls` come with it only.
- **A resend is free.** The same id again starts nothing, whatever else the entry says. While the request is
  open it gets no reply of its own; afterwards it gets `known`, with the `state` that was reached and, as
  `reply_id`, the entry that said so: `XRANGE orion:replies:brain REPLY_ID REPLY_ID`.
- **A wait has an end.** The deadline counts from the XADD: {POLICY.default_deadline_ms // 1000} s if none is asked for
  (policy.default_deadline_ms), at most {POLICY.max_deadline_ms // 3_600_000} hours (policy.max_deadline_ms). Nodes that are away, hot or
  full mean waiting. A model is rejected as unknown once the list of every node with inference lacks it.
- **Failures are tried again**, at most {POLICY.max_attempts} attempts in all (policy.max_attempts); what Ollama itself refuses
  {POLICY.max_refusals} times (policy.max_refusals) ends as `refused`.
- **Order.** Higher `priority` goes first; within one, the earliest deadline, then the earliest arrival.
- At most {POLICY.max_open:,} requests of one client are open at a time (policy.max_open); then `queue_full`.

What is kept:

| what | how long |
|---|---|
| a request's entry | until the request is closed; the router trims, nobody else may |
| the ids of closed requests | the last {POLICY.dedupe_keep:,} (policy.dedupe_keep) of each client, at most {POLICY.dedupe_keep_ms // 60_000} minutes \
(policy.dedupe_keep_ms); an older id counts as new |
| replies | longer than the id that they answer is remembered; at most {RETENTION.replies_entries:,} per client \
(retention.replies_entries), beyond which the oldest ids are forgotten first |

## A client in another language

1. Before the first XADD note where the reply stream ends: `XREVRANGE orion:replies:brain + - COUNT 1` (nothing
   there: `0-0`). Read from there by XREAD, each time from the last id that was read. Never read from `$`: what
   comes between two reads would be lost.
2. Give every request an id of its own (a UUID): printable, at most {MAX_ID_BYTES} bytes of UTF-8. Processes that share
   a client's name share its two streams: skip the ids of others.
3. If the connection breaks or the XADD is not answered, send the same entry again under the same id, as often
   as it takes; so the automatic retry of your Redis library does no harm either, but only with an id.
4. Collect the texts of tokens per `attempt`; on `restarted` begin anew. Or ignore both and wait for the end.
5. On `known`, read the entry `reply_id`. Ignore a second end of an id that has ended, and a `rejected` with
   `unknown_id` unless a cancel of yours waits for it.
6. Block at most a second or two per XREAD, less than the socket's own timeout.

A client needs, on the server: XADD on its `requests:` stream; XREAD, XRANGE and XREVRANGE on its `replies:`
stream; no other key.

## Agents on other machines

A node joins by its agent, on the machine where its Ollama runs:

```
orion agent --node orion-worker --redis redis://orion-master:6379/0
```

The name is that of a `[nodes.NAME]` table in the router's streams.toml. Clients need not know about nodes:
requests go into the same stream wherever they run.
"""


def rows(struct: type[msgspec.Struct], wire: bool) -> str:
    """A struct's fields as a table: name, type with limits, default, meaning. `wire`: all is text there."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in info.fields:
        shape, meaning = described(field.type)
        kind = type_name(shape)
        if wire and (field.encode_name in JSON_FIELDS or field.encode_name == "format"):
            kind = f"JSON: {kind}"
        lines.append(f"| `{field.encode_name}` | {kind} | {default_of(field)} | {meaning} |")
    return "\n".join([*lines, ""])


def described(shape: inspect.Type) -> tuple[inspect.Type, str]:
    """A type without its description, and the description."""
    if isinstance(shape, inspect.Metadata):
        return shape.type, str((shape.extra_json_schema or {}).get("description", ""))
    return shape, ""


def default_of(field: inspect.Field) -> str:
    """What holds when the field is not there."""
    if field.required:
        return "required"
    value: Any = field.default
    if value is None or value in (msgspec.UNSET, msgspec.NODEFAULT) or value == "":
        return ""
    return f"`{int(value) if isinstance(value, bool) else value}`"


def type_name(shape: inspect.Type) -> str:  # noqa: PLR0912 - one line per type
    """A type in words, with its limits."""
    match shape:
        case inspect.Metadata(type=inner):
            return type_name(inner)
        case inspect.UnionType(types=types):
            return joined(type_name(each) for each in types if not absent(each))
        case inspect.LiteralType(values=values):
            return joined(f"`{value}`" for value in values)
        case inspect.IntType(ge=low, le=high):
            if low is None:
                return "integer"
            return f"integer from {low}" if high is None else f"integer, {low} to {high}"
        case inspect.StrType(max_length=longest, pattern=pattern):
            if pattern:
                inside = pattern.removeprefix(r"\A").removesuffix(r"\Z")
                return f"text, `{inside}`"
            return f"text of at most {longest}" if longest else "text"
        case inspect.BoolType():
            return "bool"
        case inspect.FloatType():
            return "number"
        case inspect.ListType(item_type=inner):
            return f"list of {type_name(inner)}"
        case inspect.DictType(value_type=inspect.AnyType()):
            return "object"
        case inspect.DictType(value_type=inner):
            return f"object of {type_name(inner)}"
        case inspect.StructType():
            return "messages"
        case inspect.AnyType():
            return "`json` or an object"
        case _:
            raise TypeError(f"no words for {shape}")


def absent(shape: inspect.Type) -> bool:
    """Types that only say that a field may be missing."""
    return isinstance(shape, inspect.NoneType) or getattr(shape, "cls", None) is msgspec.UnsetType


def joined(words: Iterable[str]) -> str:
    """a, b or c."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def main(arguments: list[str]) -> int:
    """Print it, or compare it with a file. The exit code."""
    if arguments[:1] == ["--check"] and len(arguments) == 2:
        path = Path(arguments[1])
        if path.exists() and path.read_text(encoding="utf-8") == document():
            return 0
        sys.stderr.write(f"{path} is old: python -m orion_streams.contract_docs > {path}\n")
        return 1
    sys.stdout.write(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
