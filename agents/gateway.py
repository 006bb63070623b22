"""The gateway's requests: whoever asks over HTTP is a client of the streams. No node is asked."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import web

from orion_streams.agents import gateway_calls
from orion_streams.agents.gateway_calls import Request
from orion_streams.agents.gateway_http import CALLER, body_of, response_of
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.key_file import KeyFile
from orion_streams.client.streams_client import AsyncClient
from orion_streams.config import Config
from orion_streams.errors import BackendError, OrionError
from orion_streams.gateway import grid_state, http_calls, keys, listings
from orion_streams.gateway.access import Caller
from orion_streams.gateway.asks import Ask
from orion_streams.gateway.failures import RETRY_AFTER_S
from orion_streams.gateway.grid_answers import headers_of, joined, metrics_of
from orion_streams.gateway.refusal import Refusal, not_found, not_found_to_embed
from orion_streams.gateway.sessions import BACKGROUND_PRIORITY, LEAST_PRIORITY, is_background, session_of
from orion_streams.model.policy import GATEWAY, GUEST_PREFIX, ClientRules
from orion_streams.protocol.answer_events import Answer

log = logging.getLogger("orion.gateway")

GIVE_UP_S, GUEST_S, KEEP_GUESTS_S, STOP_S = 10.0, 10.0, 1.0, 3.0
"""How long the server may be away under a request; a request waits for its client to be known to the grid;
between two looks at the keys; for open requests to end when it stops."""
STOPS = "the gateway stops: ask again in a moment"
MOST_TEXTS = 64
"""Of one request of the grid: programs send a whole library at once, and an answer may not exceed
`limits.answer_max_bytes`."""


class Gateway:
    """One gateway. `follower`: the grid as the log tells it; `life`: "MACHINE.BOOT", this life of the
    process."""

    def __init__(self, config: Config, follower: GridFollower, key_file: KeyFile, life: str) -> None:
        self.config, self.follower, self.key_file = config, follower, key_file
        machine, _, boot = life.rpartition(".")
        self._mine = f"{config.gateway.name}@{machine}."
        self._prefix, self._count = f"{self._mine}{boot}.", itertools.count(1)
        self._asking: set[asyncio.Task[Any]] = set()
        self._stops = False
        self._told: dict[str, ClientRules] = {}
        self._clients: dict[str, AsyncClient] = {}
        self._open: Counter[str] = Counter()

    # requests

    async def ask(self, http: web.Request) -> web.StreamResponse:
        """Answer a call that asks a model. Raise Refusal."""
        raw = await body_of(http)
        origin = http_calls.Origin(secrets.token_hex(12), int(time.time()))
        call = http_calls.CALLS[http.path](raw, origin)
        caller = http[CALLER]
        with self.counted(caller.client):
            request = await self._request(http, caller, call.ask)
            if call.of_vectors is not None:
                answer = await self._vectors(request)
                written = call.of_vectors(answer.vectors, metrics_of(answer))
                return response_of(written, headers_of(answer))
            if call.ask.stream and not call.ask.only:
                return await gateway_calls.answered_as_stream(http, request, call.dialect)
            return await gateway_calls.answered_whole(request, call.dialect)

    async def _vectors(self, request: Request) -> Answer:
        """Return the vectors of all texts, asked for MOST_TEXTS at a time. Raise Refusal."""
        texts = request.fields.get("input", ())
        answers = [await gateway_calls.whole_answer(part_of(request, 0, request.id))]
        for at in range(MOST_TEXTS, len(texts), MOST_TEXTS):
            answers.append(await gateway_calls.whole_answer(part_of(request, at, self.new_id())))
        return joined(answers)

    async def _request(self, http: web.Request, caller: Caller, ask: Ask) -> Request:
        """Make the grid's request. Raise Refusal if nobody could answer it."""
        self.check_router()
        model = await self._model_of(ask)
        client = await self.client_of(caller.client)
        secret = self.key_file.current().table.secret_bytes
        fields = {**ask.fields, "model": model, "priority": self._priority(caller, ask)}
        fields.pop("session", None)
        if ask.may_not_think and listings.cannot_think(self.follower.folded, model):
            fields.pop("think", None)
        if session := session_of(secret, caller.client, http.headers, ask.fields):
            fields["session"] = session
        return Request(client, self.new_id(), fields)

    def new_id(self) -> str:
        """Return an id that tells which life of which gateway asked."""
        return f"{self._prefix}{next(self._count)}"

    async def _model_of(self, ask: Ask) -> str:
        """Return the full name of the model that is asked for. Raise Refusal if there is none, also in what
        the log holds by now."""
        aliases = self.config.gateway.aliases
        if (model := listings.find(self.follower.folded, ask.model, aliases)) is not None:
            return model
        await self.follower.fresh()
        grid = self.follower.folded
        if (model := listings.find(grid, ask.model, aliases)) is not None:
            return model
        if untold := listings.untold(grid):
            who = " and ".join(untold)
            what = f"which models {who} has is not told yet, and no other node has {ask.model}"
            raise Refusal(503, what, retry_after_s=RETRY_AFTER_S)
        raise not_found_to_embed(ask.model) if ask.kind == "embed" else not_found(ask.model)

    def _priority(self, caller: Caller, ask: Ask) -> int:
        """Return a request's priority: its key's, lower for background work."""
        lower = BACKGROUND_PRIORITY if is_background(ask.fields) else 0
        return max(min(caller.default_priority, caller.max_priority) + lower, LEAST_PRIORITY)

    @contextmanager
    def counted(self, client: str) -> Iterator[None]:
        """Count an open request of a client. Raise Refusal if it has as many as it may, or nothing more may
        begin."""
        if self._stops:
            raise Refusal(503, STOPS, retry_after_s=RETRY_AFTER_S)
        limit = self.config.gateway.max_streams
        if self._open[client] >= limit:
            what = f"{client} has {limit} requests open, as many as it may (gateway.max_streams)"
            raise Refusal(503, what, retry_after_s=RETRY_AFTER_S)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler is one
        self._open[client] += 1
        self._asking.add(task)
        try:
            yield
        finally:
            self._asking.discard(task)
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def check_router(self) -> None:
        """Raise Refusal 503 if no router decides."""
        if sentence := grid_state.router_silent(self.follower.silent_ms):
            raise Refusal(503, sentence, retry_after_s=RETRY_AFTER_S)

    async def client_of(self, name: str) -> AsyncClient:
        """Return the grid's client of that name; a guest once the grid knows it. Raise Refusal if it does
        not."""
        if not self._is_known(name):
            with suppress(TimeoutError):
                async with asyncio.timeout(GUEST_S):
                    await self._until_known(name)
        if not self._is_known(name):
            mend = f"add [clients.{name}] to the router's streams.toml, and raise its revision"
            what = f"the grid does not know the client {name}: {mend}"
            raise Refusal(503, what, retry_after_s=RETRY_AFTER_S)
        return self.client(name)

    async def _until_known(self, name: str) -> None:
        """Wait until the grid knows a guest; no other client comes without a new revision."""
        await self.keep_guests()
        await self.follower.fresh()
        while name.startswith(GUEST_PREFIX) and not self._is_known(name):
            await self.follower.news()
            await self.keep_guests()

    def _is_known(self, name: str) -> bool:
        grid = self.follower.folded
        return name in grid.clients or name in grid.guests

    def client(self, name: str) -> AsyncClient:
        """Return the client of the streams under that name."""
        if name not in self._clients:
            url, prefix = self.config.redis.url, self.config.prefix
            self._clients[name] = AsyncClient(url, name, prefix=prefix, give_up_s=GIVE_UP_S)
        return self._clients[name]

    # guests

    async def keep_guests(self) -> None:
        """Tell the grid which clients there are by their keys, where it does not know."""
        held, grid = self.key_file.current(), self.follower.folded
        if held.fault or not self.follower.loaded.is_set():
            return
        added, removed = keys.guest_changes(held.table, grid.guests, self.config.clients)
        client = self.client(GATEWAY)
        for name, rules in added.items():
            if name in grid.guests and self._told.get(name) == rules:
                continue  # another gateway has a key of that name: its rules hold until this one's change
            await client.add_guest(name, rules)
            self._told[name] = rules
        for name in removed:
            for request_id in self._open_of(name):  # nobody reads its cancels once it is gone
                await gateway_calls.cancel(self.client(name), request_id)
            await client.remove_guest(name)
        await self._let_go({key.client for key in held.table.keys})

    async def _let_go(self, kept: Collection[str]) -> None:
        """End what guests still ask that the grid knows no more: nobody would answer it."""
        gone = [each for each in self._clients if each.startswith(GUEST_PREFIX) and each not in kept]
        for name in gone:
            if not self._is_known(name):
                await self._clients.pop(name).close()

    def _open_of(self, name: str) -> list[str]:
        """Return the ids of a client's open requests."""
        rows = (key.partition("/") for key in self.follower.folded.open)
        return [request_id for client, _, request_id in rows if client == name]

    async def keep_guests_for_ever(self) -> None:
        """Look at the keys every KEEP_GUESTS_S, until cancelled. Log a failure once until it changes."""
        said = ""
        while True:
            try:
                await self.keep_guests()
                said = ""
            except OrionError as error:
                if said != str(error):
                    log.warning("the grid could not be told of the keys: %s", error)
                said = str(error)
            await asyncio.sleep(KEEP_GUESTS_S)

    async def cancel_earlier(self) -> None:
        """Cancel what an earlier life of this gateway had open: nobody waits for it."""
        await self.follower.loaded.wait()
        grid = self.follower.folded
        pulls = [node.disk.request for node in grid.nodes.values() if node.disk is not None]
        for key in [*grid.open, *pulls]:
            name, _, request_id = key.partition("/")
            if request_id.startswith(self._mine) and not request_id.startswith(self._prefix):
                log.info("%s was asked by an earlier life of this gateway: cancelled", key)
                await gateway_calls.cancel(self.client(name), request_id)

    async def stop(self) -> None:
        """Let nobody ask any more; end what is open with a sentence, and cancel it in the grid."""
        self._stops = True
        for client in self._clients.values():
            client.abandon(BackendError(STOPS))
        for waits in (self._asking, gateway_calls.CANCELS):
            if waits:
                await asyncio.wait(waits, timeout=STOP_S)

    async def close(self) -> None:
        """Close the connections to the server."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))


def part_of(request: Request, at: int, name: str) -> Request:
    """Return the request for the texts from `at` on; one without texts as it is."""
    if "input" not in request.fields:
        return request
    texts = request.fields["input"][at : at + MOST_TEXTS]
    return Request(request.client, name, {**request.fields, "input": texts})
