"""Connections to Redis or Valkey, set up once and the same everywhere."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from orion_streams.errors import ConfigError

SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking read, so that only a dead server trips it."""


def connect(url: str, timeout_s: float = SOCKET_TIMEOUT_S) -> Redis:
    """A client of the server at `url` (redis://, rediss:// or unix://).

    It never retries: after a lost answer nobody knows whether a write happened, and redis-py's own retry
    would write twice. Raises ConfigError for a URL that is none.
    """
    try:
        return _from_url(url, timeout_s)
    except ValueError:  # its words may quote the URL, and that may hold a password
        raise ConfigError(
            "redis.url: expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH"
        ) from None


def _from_url(url: str, timeout_s: float) -> Redis:
    return Redis.from_url(
        url.replace("valkey+unix://", "unix://"),
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        driver_info=None,  # an ACL user of Redis 7.0 may not set it
    )


async def ask(redis: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Commands in one round trip; answers as the server gave them, a ResponseError in its place.

    redis-py's own calls do the same for up to twice the processor time: what runs with every request
    comes here. A connection that breaks or a task that is cancelled closes the connection.
    """
    pool = redis.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
        return answers
    finally:
        await pool.release(connection)


async def ask_one(redis: Any, *command: Any) -> Any:
    """One command; its answer. Raises its ResponseError."""
    [answer] = await ask(redis, command)
    if isinstance(answer, ResponseError):
        raise answer
    return answer


def as_dict(parts: list[bytes] | None) -> dict[bytes, bytes]:
    """An entry's fields, which the server gives as a flat list; none for a deleted entry."""
    return dict(zip(parts[::2], parts[1::2], strict=True)) if parts else {}


def end_if_cancelled() -> None:
    """For loops without an end: Python 3.11's wait_for, inside redis-py, loses cancels that come as a write
    ends. CancelledError if this task was asked to end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
