"""The clients of `orion chaos`: concurrent users, one that writes entries by hand, a slow reader, a sender
of poison.

`ChaosClients` records what each client was told, so that checks need not trust the grid.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from orion_streams import Answer, Piece, Restarted
from orion_streams.client import calls
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError
from orion_streams.runtime.connection import connect
from tests.chaos.chaos_grid import CLIENTS, ChaosGrid
from tests.chaos.chaos_http import HttpClients
from tests.chaos.lasting import lasts

PROMPTS = [f"What does the robot see in room {n}?" for n in range(12)]
TIMEOUT_S = 300.0
CANCEL_SHARE, STREAM_SHARE = 0.03, 0.6
HAND_OPEN, READ_PAUSE_S = 4, 0.05
POISON: list[dict[str, str | bytes]] = [
    {"id": "", "model": "gemma3:270m"},
    {"model": "no such model here", "prompt": "x"},
    {"model": "gemma3:270m", "prompt": "x", "options": "{not json"},
    {"model": "gemma3:270m", "messages": "[" * 2_000},
    {"model": b"\xff\xfe\x00", "prompt": b"\x80\x81"},
    {"model": "gemma3:270m", "prompt": "x", "tier": "99999999999999999999999"},
    {"model": "gemma3:270m", "prompt": "x" * 1_200_000},
    {"nothing": "at all"},
]
"""Each gets one `rejected` reply, under its own id or that of its entry."""


class ChaosClients:
    """Users of the grid. `told`: ends that clients received. `repeats`: repeated ends that were dropped by
    their id. `texts`: the answers to each prompt, all alike unless one was cut short."""

    def __init__(self, rng: random.Random, models: list[str], tail_may_go: bool) -> None:
        self.rng, self.models, self.tail_may_go = rng, models, tail_may_go
        self.told: set[tuple[str, str]] = set()
        self.gave_up: list[str] = []
        self.codes: Counter[str] = Counter()
        self.texts: dict[tuple[str, str], Counter[str]] = {}
        self.repeats = self.asked = self.poisoned = 0
        self.stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._poison_task: asyncio.Task[None] | None = None
        self._brain: AsyncClient | None = None
        self.http: HttpClients | None = None

    def start(self, grid: ChaosGrid, users: int, http_users: int) -> None:
        """Start `users` users, two clients that write by hand, and `http_users` of the gateway."""
        brain_url, hand_url, slow_url = (grid.proxies[name].url for name in CLIENTS)
        prefix = grid.config.prefix
        self.http = HttpClients(grid, self.rng, self.models, PROMPTS, self.note_text)
        self._brain = AsyncClient(brain_url, "brain", prefix=prefix)
        self._tasks = [asyncio.create_task(self._user(self._brain)) for _ in range(users)]
        hands = (("gateway", hand_url, READ_PAUSE_S), ("cli", slow_url, 20 * READ_PAUSE_S))
        for name, url, pause_s in hands:
            self._tasks.append(asyncio.create_task(self._by_hand(name, url, prefix, pause_s)))
        for _ in range(http_users):
            self._tasks.append(asyncio.create_task(self.http.user(lambda: self.stopping)))

    def note_text(self, model: str, prompt: str, text: str) -> None:
        """Note a whole answer."""
        self.texts.setdefault((model, prompt), Counter())[text] += 1

    async def stop(self, within_s: float) -> None:
        """Send no more requests, and wait until all have ended."""
        self.stopping = True
        await asyncio.wait(self._tasks, timeout=within_s)
        await end_tasks(self._tasks)
        if self._brain is not None:
            self.repeats += self._brain.duplicates
            await self._brain.close()

    async def _user(self, client: AsyncClient) -> None:
        while not self.stopping:
            model, prompt = self.rng.choice(self.models), self.rng.choice(PROMPTS)
            name = client.new_id()
            fields: calls.Fields = {
                "id": name,
                "timeout_s": TIMEOUT_S,
                "options": {"temperature": 0, "num_predict": 16},
            }
            self.asked += 1
            canceller = None
            if self.rng.random() < CANCEL_SHARE:
                canceller = asyncio.create_task(self._cancel(client, name, self.rng.uniform(0, 0.4)))
            try:
                if self.rng.random() < STREAM_SHARE:
                    text = await self._streamed(client, model, prompt, fields)
                else:
                    text = (await client.generate(model, prompt, **fields)).text
                self.note_text(model, prompt, text)
                self.told.add(("brain", name))
            except calls.RequestTimeoutError:
                self.gave_up.append(name)
            except calls.RequestError as error:
                self.codes[error.code] += 1
                self.told.add(("brain", name))
            except BackendError as error:
                self.gave_up.append(f"{name}: {error}")
            finally:
                if canceller is not None:
                    canceller.cancel()
                    await asyncio.gather(canceller, return_exceptions=True)
            await lasts(self.rng.uniform(0.2, 0.8))

    async def _streamed(self, client: AsyncClient, model: str, prompt: str, fields: calls.Fields) -> str:
        """Return the answer's text; record it as cut if the pieces since a restart do not begin it."""
        pieces = ""
        async for event in client.stream(model, prompt, **fields):
            match event:
                case Restarted():
                    pieces = ""
                case Piece(text=text):
                    pieces += text
                case Answer(text=text):
                    if not text.startswith(pieces):
                        self.texts.setdefault((model, prompt), Counter())[f"{pieces} | {text}"] += 1
                    return text
        raise BackendError("the stream ended without an answer")

    async def _cancel(self, client: AsyncClient, name: str, after_s: float) -> None:
        await lasts(after_s)
        await client.cancel(name)

    async def _by_hand(self, client: str, url: str, prefix: str, pause_s: float) -> None:
        """Use XADD and XREAD only. Send acknowledged requests again only if the server may lose them."""
        redis: Any = connect(url, 3.0)
        requests, replies = f"{prefix}requests:{client}", f"{prefix}replies:{client}"
        open_ids: dict[str, bool] = {}  # whether it was acknowledged
        cursor, number = "0-0", 0
        while not self.stopping or open_ids:
            try:
                if len(open_ids) < HAND_OPEN and not self.stopping:
                    number += 1
                    open_ids[f"h{number}"] = False
                    self.asked += 1
                for name in [each for each, acknowledged in open_ids.items() if not acknowledged]:
                    entry = {"id": name, "model": self.models[0], "prompt": PROMPTS[0], "stream": "0"}
                    entry["options"] = '{"num_predict":8}'
                    await redis.xadd(requests, entry)
                    open_ids[name] = True
                answer = await redis.xread({replies: cursor}, count=10)
                for entry_id, fields in (row for _, rows in answer or () for row in rows):
                    cursor = entry_id
                    self._hear(client, fields, open_ids)
            except (RedisError, OSError):
                if self.tail_may_go:
                    open_ids = dict.fromkeys(open_ids, False)
            await lasts(pause_s)
        await redis.aclose()

    def _hear(self, client: str, fields: dict[bytes, bytes], open_ids: dict[str, bool]) -> None:
        name = fields.get(b"id", b"").decode()
        if fields.get(b"kind") in (b"done", b"error", b"expired", b"cancelled", b"known"):
            self.told.add((client, name))
            open_ids.pop(name, None)

    def poison(self, url: str, prefix: str) -> None:
        """Send one malformed entry of each kind in the background."""
        self._poison_task = asyncio.create_task(self._send_poison(url, prefix))

    async def _send_poison(self, url: str, prefix: str) -> None:
        redis: Any = connect(url, 3.0)
        with suppress(RedisError, OSError):
            for fields in POISON:
                await redis.xadd(f"{prefix}requests:gateway", fields)
                self.poisoned += 1
        await redis.aclose()


async def end_tasks(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks that still run. Raises the first exception of a task."""
    for task in tasks:
        task.cancel()
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(end, Exception):
            raise end
