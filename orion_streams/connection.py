"""Connections to Redis or Valkey, set up once and the same everywhere."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking read, so that only a dead server trips it."""


def connect(url: str, timeout_s: float = SOCKET_TIMEOUT_S) -> Redis:
    """A client of the server at `url` (redis://, rediss:// or unix://).

    It never retries: after a lost answer nobody knows whether a write happened, and redis-py's own retry
    would write twice.
    """
    return Redis.from_url(
        url.replace("valkey+unix://", "unix://"),
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        driver_info=None,  # an ACL user of Redis 7.0 may not set it
    )
