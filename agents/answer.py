"""An answer as it grows, and a timer that passes its tokens on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import structs

from orion_streams.agents.backend import Chunk
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import PIECE_FIELDS


class Answer:
    """Collects an answer. `bytes`: its size so far; `usage` comes with the last chunk. `name`: begins the
    ids of tool calls that come without one."""

    def __init__(self, name: str = "") -> None:
        self.chunks: list[Chunk] = []
        self.bytes = 0
        self.usage: Usage | None = None
        self._name, self._calls, self._sent = name, 0, 0

    def add(self, chunk: Chunk) -> None:
        """Append a piece."""
        if chunk.tool_calls:
            chunk = structs.replace(chunk, tool_calls=tuple(map(self._numbered, chunk.tool_calls)))
        size = sum(map(len, fields_of([chunk]).values()))
        if size:
            self.chunks.append(chunk)
        self.bytes += size
        self.usage = chunk.usage

    def _numbered(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return a tool call with an id, by which its result is told, and its place among all calls."""
        number, self._calls = self._calls, self._calls + 1
        function = call.get("function")
        if isinstance(function, dict):
            call = {**call, "function": {**function, "index": number}}
        return call if call.get("id") else {"id": f"call_{self._name}_{number}", **call}

    @property
    def has_begun(self) -> bool:
        """Whether the model has said anything."""
        return bool(self.chunks)

    def unsent(self) -> dict[str, bytes]:
        """Return the fields of what came since the last call; none if nothing did."""
        fields = fields_of(self.chunks[self._sent :])
        self._sent = len(self.chunks)
        return {name: value for name, value in fields.items() if name in PIECE_FIELDS}

    def body(self) -> dict[str, bytes]:
        """Return the fields of a completed result."""
        return fields_of(self.chunks)


def fields_of(chunks: Sequence[Chunk]) -> dict[str, bytes]:
    """Return pieces of an answer as fields of a result, without those that hold nothing."""
    fields = {name: "".join(getattr(each, name) for each in chunks).encode() for name in TEXTS}
    for name in LISTS:
        rows = [row for each in chunks for row in getattr(each, name)]
        fields[name] = msgspec.json.encode(rows) if rows else b""
    fields["vectors"] = b"".join(each.vectors for each in chunks)
    return {name: value for name, value in fields.items() if value}


TEXTS, LISTS = ("text", "thinking"), ("tool_calls", "logprobs", "context")
"""Fields of a piece by what they hold; vectors are JSON already."""
PROMPT_MARGIN = 16_384
"""So many tokens may come on top of a prompt's bytes: a template, and what a model makes of an image."""


def plausible(usage: Usage, *, waited_ms: int, tokens_max: int, prompt_bytes: int) -> Usage:
    """Return what an answer took, as far as it can be true; 0 is unknown. No part takes longer than the
    agent itself waited for the whole, no answer has more tokens than it was allowed, and no prompt more
    tokens than bytes."""
    bounds = {
        "tokens": tokens_max,
        "prompt_tokens": prompt_bytes + PROMPT_MARGIN,
        **dict.fromkeys(("load_ms", "prefill_ms", "decode_ms", "total_ms", "first_token_ms"), waited_ms),
    }
    odd = {name: 0 for name, most in bounds.items() if getattr(usage, name) > most}
    return structs.replace(usage, **odd) if odd else usage


class Repeater:
    """Awaits `work` every `pause_s`, first after one pause or when it is told to begin, never twice at
    once."""

    def __init__(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        self._work, self._pause_s = work, pause_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._timer = self._loop.call_later(pause_s, self._start)

    def begin(self) -> None:
        """Await the first round now."""
        if self._task is None and not self._closed:
            self._timer.cancel()
            self._start()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._once())

    async def _once(self) -> None:
        await self._work()
        if not self._closed:
            self._timer = self._loop.call_later(self._pause_s, self._start)

    async def close(self) -> None:
        """Begin no further round, and wait for one that has begun."""
        self._closed = True
        self._timer.cancel()
        if self._task is not None:
            await self._task
