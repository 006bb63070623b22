"""An answer as it grows, and a timer that passes its tokens on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import structs

from orion_streams.agents.backend import Chunk
from orion_streams.model.measured import Usage


class Answer:
    """Collects an answer. `bytes`: its size so far; `usage` comes with the last chunk."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thinking: list[str] = []
        self.tool_calls: list[object] = []
        self.vectors = b""
        self.bytes = 0
        self.usage: Usage | None = None
        self._sent = 0

    def add(self, chunk: Chunk) -> None:
        """Append a piece."""
        if chunk.text:
            self.texts.append(chunk.text)
        if chunk.thinking:
            self.thinking.append(chunk.thinking)
        if chunk.tool_calls:
            self.tool_calls += chunk.tool_calls
            self.bytes += len(msgspec.json.encode(chunk.tool_calls))
        self.vectors = chunk.vectors or self.vectors
        self.bytes += len(chunk.text.encode()) + len(chunk.thinking.encode()) + len(chunk.vectors)
        self.usage = chunk.usage

    def unsent(self) -> str:
        """Return the text that came since the last call."""
        piece = "".join(self.texts[self._sent :])
        self._sent = len(self.texts)
        return piece

    def body(self) -> dict[str, bytes]:
        """Return the fields of a completed result."""
        fields = {
            "text": "".join(self.texts).encode(),
            "thinking": "".join(self.thinking).encode(),
            "tool_calls": msgspec.json.encode(self.tool_calls) if self.tool_calls else b"",
            "vectors": self.vectors,
        }
        return {name: value for name, value in fields.items() if value}


PROMPT_MARGIN = 16_384
"""So many tokens may come on top of a prompt's bytes: a template, and what a model makes of an image."""


def plausible(usage: Usage, *, waited_ms: int, tokens_max: int, prompt_bytes: int) -> Usage:
    """Return what an answer took, as far as it can be true; 0 is unknown. No part takes longer than the
    agent itself waited for the whole, no answer has more tokens than it was allowed, and no prompt more
    tokens than bytes."""
    bounds = {
        "tokens": tokens_max,
        "prompt_tokens": prompt_bytes + PROMPT_MARGIN,
        **dict.fromkeys(("load_ms", "prefill_ms", "decode_ms", "total_ms"), waited_ms),
    }
    odd = {name: 0 for name, most in bounds.items() if getattr(usage, name) > most}
    return structs.replace(usage, **odd) if odd else usage


class Repeater:
    """Awaits `work` every `pause_s`, first after one pause, never twice at once."""

    def __init__(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        self._work, self._pause_s = work, pause_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._timer = self._loop.call_later(pause_s, self._start)

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
