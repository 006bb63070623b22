"""One request of a person at a terminal: shown while it comes, and cancelled in the grid by Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from orion_streams import Answer, AsyncClient, BackendError, RequestCancelledError
from orion_streams.cli.answer_view import AnswerView, dim
from orion_streams.cli.outcome import plain, tell
from orion_streams.client.calls import Fields
from orion_streams.config import Config
from orion_streams.environment import command
from orion_streams.errors import OrionError

GIVE_UP_S = 10.0
"""Redis may be away for so long."""
CONFIRM_S = 5.0
"""The grid may take so long to confirm a cancel."""
NOT_CONFIRMED = "the cancel is not confirmed: the grid does not answer"


class Interrupted(Exception):
    """Ctrl-C ended a request. The message says what became of it."""


def client_of(config: Config, name: str) -> AsyncClient:
    """Return the grid's client of that name."""
    return AsyncClient(config.redis.url, name, prefix=config.prefix, give_up_s=GIVE_UP_S)


async def answered(
    client: AsyncClient, content: Mapping[str, Any], fields: Fields, view: AnswerView
) -> Answer:
    """Ask, show what comes, and return the answer. Raises Interrupted after Ctrl-C, RequestError,
    BackendError."""
    request_id = client.new_id()
    asked: Fields = {**fields, "id": request_id, "notify": True}
    showing = asyncio.create_task(view.show(client.send(content, **asked)))
    if await ended_by_itself(client, request_id, showing):
        return showing.result()
    unconfirmed = f"{NOT_CONFIRMED}; the deadline ends it at the latest"
    stopped = "cancelled: the node stops" if view.begun else "cancelled before the answer began"
    raise Interrupted(became_of(showing, stopped, unconfirmed))


async def ended_by_itself(client: AsyncClient, request_id: str, task: asyncio.Task[Any]) -> bool:
    """Wait for a request's end. Return False if Ctrl-C came before: then it was cancelled in the grid, and
    its task is over. A second Ctrl-C leaves at once."""
    with interrupts() as pressed:
        if await ends_before(task, pressed):
            return True
        pressed.clear()
        cancelling = asyncio.create_task(cancel(client, request_id, task))
        await ends_before(cancelling, pressed)
    for each in (cancelling, task):
        each.cancel()
    await asyncio.wait({cancelling, task})
    return False


@contextmanager
def interrupts() -> Iterator[asyncio.Event]:
    """Turn Ctrl-C into an event while the block runs."""
    loop, pressed = asyncio.get_running_loop(), asyncio.Event()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, pressed.set)
    try:
        yield pressed
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


async def ends_before(task: asyncio.Task[Any], pressed: asyncio.Event) -> bool:
    """Wait for a task or for Ctrl-C; return whether the task ended."""
    pressing = asyncio.create_task(pressed.wait())
    try:
        await asyncio.wait({task, pressing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pressing.cancel()
    return task.done()


async def cancel(client: AsyncClient, request_id: str, task: asyncio.Task[Any]) -> None:
    """Cancel a request, and wait up to CONFIRM_S for its end."""
    with suppress(TimeoutError, BackendError):
        async with asyncio.timeout(CONFIRM_S):
            await client.cancel(request_id)
            await asyncio.wait({task})


def became_of(task: asyncio.Task[Any], stopped: str, unconfirmed: str) -> str:
    """Return what became of a request that was cancelled; the words for one that stops, and for one of
    which nothing was heard."""
    if task.cancelled():
        return unconfirmed
    error = task.exception()
    if isinstance(error, RequestCancelledError):
        return stopped
    return "too late to cancel: it had ended" if error is None else f"it had ended: {said(error)}"


def said(error: BaseException) -> str:
    """Return what a person reads of an error."""
    return plain(error.told if isinstance(error, OrionError) else error)


def sign(answer: Answer) -> None:
    """Say who made an answer, and how to see why there."""
    tell(dim(f"{answer.node} · {answer.engine} · {answer.tokens} tokens · {answer.total_ms} ms"))
    tell(dim(f"why there: {command()} explain {answer.id}"))
