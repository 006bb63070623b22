"""What an operator orders of a node's disk, as its client hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from msgspec import Struct

from orion_streams.client import calls
from orion_streams.client.calls import Call
from orion_streams.protocol.replies import Reply


class PullProgress(Struct, frozen=True):
    """How far a pull is on a node, in Ollama's words; of a part (`digest`) its size and what is there of
    it, in bytes. `status` is `ordered` before the node begins, and `success` at its end."""

    node: str
    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


def is_order(call: Call) -> bool:
    """Whether a call pulls or removes a model: nobody needs that any more once its caller is gone."""
    return not call.entry.keys().isdisjoint(("pull", "remove"))


SILENT_S = 3_600.0
"""A node that says nothing for so long, or a grid, is not waited for."""


async def heard(call: Call, first_s: float) -> AsyncGenerator[PullProgress, None]:
    """Yield what is new until the end. Something must be said within `first_s`, and then within SILENT_S;
    the node has limits of its own. Raises RequestError, TimeoutError."""
    patience_s = first_s
    while True:
        async with asyncio.timeout(patience_s):
            await call.news.wait()
        patience_s = SILENT_S
        call.news.clear()
        end = call.end
        while call.progress:
            yield progress_of(call.progress.popleft())
        if end is not None:
            break
    if isinstance(end, Exception):
        raise end
    if end.kind != "noted":
        raise error_of(end)
    yield PullProgress(end.node, "success")


def error_of(end: Reply) -> calls.RequestError:
    """Return the error that an end stands for."""
    kind = calls.ERRORS.get(end.kind, calls.RequestFailedError)
    return kind(end.id, end.code or end.kind, end.message)


def progress_of(reply: Reply) -> PullProgress:
    """Return what a `progress` reply says."""
    return PullProgress(reply.node, reply.status, reply.digest, reply.total, reply.completed)
