"""`/api/pull` and `/api/delete`: an operator changes which models nodes have, node after node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from aiohttp import web

from orion_streams.agents.gateway import Gateway
from orion_streams.agents.gateway_http import CALLER, away, body_of, failed, response_of, write
from orion_streams.client.calls import RequestError
from orion_streams.client.disk_orders import PullProgress
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError
from orion_streams.gateway import golang, listings
from orion_streams.gateway.answers import json_answer
from orion_streams.gateway.failures import RETRY_AFTER_S, refusal_of
from orion_streams.gateway.native_requests import named_request, read
from orion_streams.gateway.refusal import Refusal, not_found
from orion_streams.model.marks import is_heard

SEEN_S = 10.0
"""How long a node's list of models may take to follow."""
OFF = (
    'models are neither pulled nor deleted through the gateway: set pull_from = ["registry.ollama.ai"] in '
    "streams.toml, or use `orion pull`, `orion rm`"
)
NDJSON = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Disks:
    """Handlers that change disks."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.follower = gateway, gateway.follower

    async def pull(self, http: web.Request) -> web.StreamResponse:
        """Answer `/api/pull`: a line for each step, or one at the end. Who goes away cancels it. Raise
        Refusal."""
        client_name = await self._operator(http)
        body = read(await body_of(http))
        model = name_in(body, "api.PullRequest")
        body = golang.in_small_letters(body)
        if body.get("insecure"):
            raise Refusal(400, "insecure: models are pulled over TLS only")
        with self.gateway.counted(client_name):
            client = await self.gateway.client_of(client_name)
            lines = self.pulled(client, model)
            async with aclosing(lines):
                first = await anext(lines)  # a refusal is still a status
                if body.get("stream") is False:
                    async for _ in lines:
                        pass
                    return response_of(json_answer({"status": "success"}))
                return await streamed(http, first, lines)

    async def pulled(self, client: AsyncClient, model: str) -> AsyncGenerator[dict[str, Any], None]:
        """Pull onto all nodes that answer and lack the model; where none does, look for a newer one on all
        that answer. Yield Ollama's lines. Raise Refusal once all were tried, if it failed on any."""
        grid = self.follower.folded
        nodes = sorted(grid.nodes.items())
        there = [name for name, node in nodes if node.rules.takes_inference and is_heard(grid, node)]
        chosen = [name for name in self._lacking(model) if name in there] or there
        if not there:
            raise Refusal(503, "no node answers just now: nothing is pulled", retry_after_s=RETRY_AFTER_S)
        failures: dict[str, RequestError] = {}
        for node in chosen:
            try:
                steps = client.pull(model, node, request_id=self.gateway.new_id())
                async with aclosing(steps):
                    async for step in steps:
                        if step.status != "success":
                            yield line_of(step)
            except RequestError as error:
                failures[node] = error
            except BackendError as error:
                raise away(error) from error
        if failures:
            raise refusal_on(failures, model)
        await self._seen(lambda: not set(chosen) & set(self._lacking(model)))
        yield {"status": "success"}

    def _lacking(self, model: str) -> list[str]:
        return listings.nodes_to_change(self.follower.folded, "pull", model)

    async def _seen(self, holds: Callable[[], bool]) -> None:
        """Wait until nodes' lists of models say what has changed: who asked goes on from there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                while not holds():
                    await self.follower.news()

    async def delete(self, http: web.Request) -> web.Response:
        """Answer `/api/delete`: from all nodes that have the model. Raise Refusal."""
        client_name = await self._operator(http)
        model = name_in(read(await body_of(http)), "api.DeleteRequest")
        nodes = listings.nodes_to_change(self.follower.folded, "remove", model)
        if not nodes:
            raise not_found(model)
        with self.gateway.counted(client_name):
            client = await self.gateway.client_of(client_name)
            await self.removed(client, model, nodes)
        return web.Response()

    async def removed(self, client: AsyncClient, model: str, nodes: Sequence[str]) -> None:
        """Remove a model from these nodes. Raise Refusal once all were tried, if it failed on any."""
        failures: dict[str, RequestError] = {}
        for node in nodes:
            try:
                await client.remove(model, node)
            except RequestError as error:
                failures[node] = error
        if failures:
            raise refusal_on(failures, model)
        await self._seen(lambda: set(nodes) <= set(self._lacking(model)))

    async def _operator(self, http: web.Request) -> str:
        """Return the client that asks, once the table is as new as the log. Raise Refusal if models are not
        changed over HTTP, it is no operator, or no router decides."""
        if not self.gateway.config.pull_from:
            raise Refusal(403, OFF)
        name = http[CALLER].client
        self.gateway.check_router()
        await self.follower.fresh()
        if not self.follower.folded.rules_of(name).operator:
            what = f"only an operator changes which models there are, and {name} is none"
            raise Refusal(403, f"{what}: operator = true in [clients.{name}], or `orion pull`, `orion rm`")
        return name


def name_in(body: Any, struct: str) -> str:
    """Return the model's name. Raise Refusal 400 without one."""
    if name := named_request(body, struct):
        return name
    raise Refusal(400, "model is required")


def refusal_on(failures: Mapping[str, RequestError], model: str) -> Refusal:
    """Return the refusal for nodes on which it failed; its status is that of the first."""
    said = "; ".join(f"{node}: {error.message or error.code}" for node, error in failures.items())
    return refusal_of(next(iter(failures.values())).code, said, model)


def line_of(step: PullProgress) -> dict[str, Any]:
    """Return a step as Ollama writes it, with its node."""
    part = {"digest": step.digest, "total": step.total} if step.digest else {}
    done = {"completed": step.completed} if step.completed else {}
    return {"status": step.status, **part, **done, "orion": {"node": step.node}}


async def streamed(
    http: web.Request, first: dict[str, Any], lines: AsyncGenerator[dict[str, Any], None]
) -> web.StreamResponse:
    """Write lines as they come; an error is the last one."""
    response = web.StreamResponse(headers=NDJSON)
    await response.prepare(http)
    await write(response, encoded(first))
    try:
        async for line in lines:
            await write(response, encoded(line))
    except Refusal as refusal:
        await write(response, encoded({"error": refusal.message}))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        await write(response, encoded({"error": failed(http, error).message}))
    await response.write_eof()
    return response


def encoded(line: dict[str, Any]) -> bytes:
    """Return a line of a stream."""
    return msgspec.json.encode(line) + b"\n"
