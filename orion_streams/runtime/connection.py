"""Connect to Redis or Valkey, and explain the errors of connections."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orion_streams import environment
from orion_streams.errors import ConfigError
from orion_streams.model import server_urls, toml_values
from orion_streams.runtime.permissions import denial

SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking read, so that only a dead server exceeds it."""
SENTINEL_TIMEOUT_S = 1.0
"""A sentinel answers from memory; a slower one is skipped."""
AWAY = (RedisConnectionError, RedisTimeoutError, OSError, OutOfMemoryError, ReadOnlyError, InvalidResponse)
AWAY_WORDS = ("OOM", "MISCONF", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED")
CUT = ("Connection closed by server", "Connection reset by peer", "Broken pipe")


def connect(url: str, timeout_s: float = SOCKET_TIMEOUT_S) -> Redis:
    """Return a client of the server at `url` (see `model.server_urls`). Behind sentinels each connection
    goes to the primary that they name; connections to a demoted primary are closed.

    The client never retries: after a lost answer a write may have happened, and a retry would write twice.
    Raise ConfigError for an invalid URL or a TLS file that cannot be read.
    """
    url = url.replace("valkey+unix://", "unix://")
    if not url or (fault := toml_values.redis_url(url)):
        raise ConfigError(f"redis.url: expected {fault if url else toml_values.REDIS_URL}")
    try:
        found = (
            server_urls.sentinels(url) if server_urls.scheme_of(url) in server_urls.BY_SENTINELS else None
        )
        own = url if found is None else found.url
        options: dict[str, Any] = {**_common(timeout_s), **parse_url(own)}
        _check_files(options)
        if found is not None:
            return _by_sentinels(found, options)
        return ExplainingRedis.from_url(own, **_common(timeout_s))
    except (ValueError, TypeError):  # the message may quote the URL with its password
        raise ConfigError(f"redis.url: expected {toml_values.REDIS_URL}") from None


class ExplainingRedis(Redis):
    """A client whose errors of permission name user, command and key, and who may."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except NoPermissionError as error:
            raise denied(self, args) from error


def denied(redis: Any, command: Sequence[Any]) -> NoPermissionError:
    """Return the error of a command that the server refused to this client's user."""
    held, where = redis.connection_pool.connection_kwargs, place(redis)
    url = f"{where}/{held.get('db') or 0}" if where.startswith(("redis:", "rediss:")) else ""
    return denial(url, held.get("username") or "default", command)


def _common(timeout_s: float) -> dict[str, Any]:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "driver_info": None,  # an ACL user of Redis 7.0 may not set it
    }


def _by_sentinels(found: server_urls.Sentinels, options: dict[str, Any]) -> Redis:
    del options["host"]
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if options.pop("connection_class", None) is SSLConnection:
        tls["ssl"] = options["ssl"] = True
    asking = {**_common(SENTINEL_TIMEOUT_S), **tls, "password": environment.sentinel_password()}
    sentinels = Sentinel(found.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    return ExplainingRedis.from_pool(PrimaryPool(found.service, sentinels, **options))  # type: ignore[no-untyped-call]


class PrimaryPool(SentinelConnectionPool):
    """Connections to the primary; closing the pool closes the connections to the sentinels, too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def _check_files(options: dict[str, Any]) -> None:
    """Raise ConfigError for a certificate or key that cannot be read: as a connection error it would be
    retried for ever."""
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = options.get(name)
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"{TLS_KEYS[name]}: {path} cannot be read")


TLS_KEYS = {
    "ssl_ca_certs": "redis.tls_ca_file",
    "ssl_certfile": "redis.tls_cert_file",
    "ssl_keyfile": "redis.tls_key_file",
}


def place(redis: Redis) -> str:
    """Return where a client connects to, without its password."""
    pool = redis.connection_pool
    held = pool.connection_kwargs
    if isinstance(pool, SentinelConnectionPool):
        return f"the primary of {pool.service_name}"
    if "path" in held:
        return f"unix://{held['path']}"
    scheme = "rediss" if issubclass(pool.connection_class, SSLConnection) else "redis"
    return f"{scheme}://{held.get('host', 'localhost')}:{held.get('port', 6379)}"


def will_pass(error: Exception) -> bool:
    """Whether a retry may succeed: the server is away, loading, full, demoted or read-only. A wrong
    password, permission, certificate or type of key stays wrong."""
    if isinstance(error, AuthenticationError | AuthorizationError) or is_untrusted(error):
        return False
    return isinstance(error, AWAY) or in_short(error).startswith(AWAY_WORDS)


def is_untrusted(error: Exception) -> bool:
    """Whether the server's certificate is not trusted or is that of another host."""
    return isinstance(error.__context__, ssl.SSLCertVerificationError)


def in_short(error: Exception) -> str:
    """Return what went wrong, in one line. The command at the start of redis-py's message is left out: it
    may hold a prompt or an answer."""
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message.rstrip('.')} (redis.tls_ca_file)"
    if isinstance(cause, ssl.SSLError):
        return "TLS failed: it speaks none on that port (redis://), or wants a certificate of its clients"
    if isinstance(error, MasterNotFoundError):
        return "the sentinels name no primary"
    if isinstance(error, InvalidResponse):
        return "what answers there is no Redis, or speaks TLS only (rediss://)"
    return str(error).rpartition(" caused error: ")[2] or type(error).__name__


def not_answering(error: Exception) -> str:
    """Return `in_short` of an error, with a hint at TLS, for a server that has never answered."""
    words = in_short(error)
    if any(each in words for each in CUT):
        return (
            f"{words.rstrip('.')}; a port that speaks TLS wants rediss://, "
            "and may want its clients' certificate (redis.tls_cert_file)"
        )
    if "Timeout connecting" in words:
        return f"{words}; so does rediss:// end where nobody speaks TLS, which wants redis://"
    return words


async def ask(redis: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands in one round trip. Return the raw answers, a ResponseError among them as a value.

    redis-py's own calls take up to twice the processor time, which matters for commands of every request.
    An error or a cancellation closes the connection.
    """
    pool = redis.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        answers: list[Any] = []
        for command in commands:
            try:
                answers.append(await connection.read_response())
            except NoPermissionError:
                answers.append(denied(redis, command))
            except ResponseError as error:
                answers.append(error)
        return answers
    finally:
        await pool.release(connection)


async def ask_one(redis: Any, *command: Any) -> Any:
    """Send one command and return its answer. Raise its ResponseError."""
    [answer] = await ask(redis, command)
    if isinstance(answer, ResponseError):
        raise answer
    return answer


def as_dict(parts: list[bytes] | None) -> dict[bytes, bytes]:
    """Return an entry's fields from the server's flat list; no fields for a deleted entry."""
    return dict(zip(parts[::2], parts[1::2], strict=True)) if parts else {}


def cancel_requests() -> int:
    """Return how often the current task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def end_if_cancelled() -> None:
    """Raise CancelledError if the current task was asked to end. Endless loops need it: Python 3.11's
    wait_for, inside redis-py, loses a cancellation that arrives as a write ends."""
    if cancel_requests():
        raise asyncio.CancelledError


def refused(key: str, error: Exception) -> ConfigError:
    """Return the error that ends a process when Redis refuses a command for good."""
    return ConfigError(f"{key}: Redis refuses: {in_short(error)}")


def away(error: Exception) -> str:
    """Return the log line for an outage of Redis."""
    return f"redis is away ({type(error).__name__}: {in_short(error)}): waiting"
