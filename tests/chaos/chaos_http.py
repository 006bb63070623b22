"""The HTTP clients of `orion chaos`: programs that speak Ollama's or OpenAI's API through the gateway.

Each gets one whole answer or one clear error. Only a killed gateway's own connections may break.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from tests.chaos.chaos_grid import ChaosGrid
from tests.chaos.lasting import lasts

DEADLINE_S = 660.0
"""The grid's own deadline, and some more: whoever waits longer hangs."""
LEAVE_SHARE, STREAM_SHARE = 0.05, 0.6
CLEAR = frozenset({502, 503, 504})
"""What a request may come to while everything breaks: the grid's fault, and said."""
NOTED = 20


class HttpClients:
    """Users of the gateway. `note_text` gets each whole answer with its model and prompt; `broken`: what
    none of them may see, the first few."""

    def __init__(
        self,
        grid: ChaosGrid,
        rng: random.Random,
        models: list[str],
        prompts: list[str],
        note_text: Callable[[str, str, str], None],
    ) -> None:
        self._grid, self._rng, self._models, self._prompts = grid, rng, models, prompts
        self._note_text = note_text
        self.broken: list[str] = []
        self.ends: Counter[str] = Counter()

    async def user(self, is_over: Callable[[], bool]) -> None:
        """Ask again and again."""
        async with aiohttp.ClientSession() as http:
            while not is_over():
                if self._grid.gateway_is_up:
                    await self._ask(http)
                await lasts(self._rng.uniform(1.0, 3.0))

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        model, prompt = self._rng.choice(self._models), self._rng.choice(self._prompts)
        streams, v1 = self._rng.random() < STREAM_SHARE, self._rng.random() < 0.5
        leave_s = self._rng.uniform(0, 1) if self._rng.random() < LEAVE_SHARE else DEADLINE_S
        deaths = self._grid.gateway_deaths
        try:
            async with asyncio.timeout(leave_s):
                text = await self._answer(http, model, prompt, streams, v1)
        except TimeoutError:
            self.ends["left"] += 1
            if leave_s == DEADLINE_S:
                self._break(f"no end within {DEADLINE_S:g} s")
        except aiohttp.ClientError as error:
            self.ends["cut"] += 1
            if self._grid.gateway_deaths == deaths and self._grid.gateway_is_up:
                self._break(f"a connection broke and nobody had killed the gateway: {error!r}")
        else:
            if text is not None:
                self.ends["answered"] += 1
                self._note_text(model, prompt, text)

    async def _answer(
        self, http: aiohttp.ClientSession, model: str, prompt: str, streams: bool, v1: bool
    ) -> str | None:
        """Return the whole answer; None for a clear error."""
        body: dict[str, Any] = {"model": model, "prompt": prompt, "stream": streams}
        if v1:
            body |= {"temperature": 0, "max_tokens": 16}
        else:
            body["options"] = {"temperature": 0, "num_predict": 16}
        path = "/v1/completions" if v1 else "/api/generate"
        async with http.post(self._grid.gateway_url + path, json=body) as answer:
            raw = await answer.read()
        if answer.status != 200:
            self._error(
                f"status {answer.status}: {raw[:200]!r}", answer.status in CLEAR and b"error" in raw
            )
            return None
        if not streams:
            found = msgspec.json.decode(raw)
            return str(found["choices"][0]["text"] if v1 else found["response"])
        return self._streamed(raw, events_of(raw) if v1 else lines_of(raw), v1)

    def _streamed(self, raw: bytes, parts: list[Mapping[str, Any]], v1: bool) -> str | None:
        """Return the text of a stream; None if it ended in an error, which is its last part."""
        if parts and "error" in parts[-1]:
            self._error(f"in the middle: {parts[-1]}", True)
            return None
        whole = raw.endswith(b"data: [DONE]\n\n") if v1 else bool(parts and parts[-1].get("done"))
        if not whole:
            self._break(f"a stream without an end: …{raw[-200:]!r}")
            return None
        if v1:
            return "".join(choice["text"] for part in parts for choice in part["choices"])
        return "".join(part["response"] for part in parts)

    def _error(self, what: str, is_clear: bool) -> None:
        self.ends["error"] += 1
        if not is_clear:
            self._break(what)

    def _break(self, what: str) -> None:
        if len(self.broken) < NOTED:
            self.broken.append(what)


def lines_of(raw: bytes) -> list[Mapping[str, Any]]:
    """Read lines of JSON."""
    return [msgspec.json.decode(line) for line in raw.splitlines() if line]


def events_of(raw: bytes) -> list[Mapping[str, Any]]:
    """Read server-sent events, without the last word."""
    lines = (line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: "))
    return [msgspec.json.decode(line) for line in lines if line != b"[DONE]"]
