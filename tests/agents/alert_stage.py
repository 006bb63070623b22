"""A webhook that notes what it gets, and alerts to tell it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from orion_streams.projections.alerts import Alert, AlertChange

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Got(Struct):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: Any


class Hook(Struct):
    """A running webhook, and what it got."""

    port: int = 0
    got: list[Got] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def hook(answer: Answer | None = None, **site: Any) -> AsyncIterator[Hook]:
    """A webhook during the block; `answer` is what it says instead of 200."""
    seen = Hook()

    async def take(request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        seen.got.append(Got(request.path_qs, dict(request.headers), body))
        return await answer(request) if answer is not None else web.Response(text="thanks")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    place = web.TCPSite(runner, "127.0.0.1", 0, **site)
    await place.start()
    try:
        seen.port = runner.addresses[0][1]
        yield seen
    finally:
        await runner.cleanup()


def change(rule: str = "hot", about: str = "n", *, ended: bool = False, **values: Any) -> AlertChange:
    """An alert that begins, or ends 90 s later."""
    usual: dict[str, Any] = {"kind": "hot", "severity": "warning", "value": 80_000, "limit": 70_000}
    alert = Alert(rule, began_ms=1_000, position=7, about=about, **{**usual, **values})
    return AlertChange(alert, 91_000 if ended else 1_000, 9 if ended else 7, ended)
