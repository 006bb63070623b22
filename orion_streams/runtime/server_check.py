"""Check that a server will not lose a grid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from orion_streams.errors import BackendError, ConfigError
from orion_streams.runtime.backoff import reconnect_backoff
from orion_streams.runtime.connection import (
    end_if_cancelled,
    in_short,
    is_untrusted,
    not_answering,
    place,
    will_pass,
)

OLDEST_MAJOR = 7


async def check_server(redis: Redis, allow_volatile: bool = False) -> None:
    """Raise ConfigError, with the command that mends it, for a server that would lose the grid, and
    BackendError for one that does not answer. Only INFO is used, since an ACL may forbid CONFIG."""
    where = place(redis)
    try:
        info: dict[str, Any] = await redis.info("everything")
    except (AuthenticationError, NoPermissionError) as error:
        raise ConfigError(f"Redis at {where} refuses this user: {error}") from error
    except (RedisError, OSError) as error:
        if is_untrusted(error):
            raise ConfigError(f"Redis at {where}: {not_answering(error)}") from error
        if not will_pass(error):
            raise ConfigError(f"Redis at {where} refuses: {in_short(error)}") from error
        raise BackendError(f"Redis at {where} does not answer: {not_answering(error)}") from error
    complaint = weakness(info, allow_volatile)
    if complaint is not None:
        what, mend = complaint
        raise ConfigError(f"Redis at {where} {what}. Mend it: {mend.format(cli=f'redis-cli -u {where}')}")


async def wait_for_server(redis: Redis, say: Callable[[str], None]) -> None:
    """Check the server as `check_server` does, but wait for one that does not answer yet, and say so once:
    after a power cut the machines come up in any order. Raise ConfigError."""
    backoff, waiting = reconnect_backoff(), False
    while True:
        end_if_cancelled()
        try:
            return await check_server(redis)
        except BackendError as error:
            if not waiting:
                say(f"orion: {error}: waiting for it")
            waiting = True
        await asyncio.sleep(backoff.compute(0))


def weakness(info: dict[str, Any], allow_volatile: bool) -> tuple[str, str] | None:
    """Return what is wrong with a server, by its INFO, and the command that mends it, or None."""
    version = str(info["redis_version"])
    if "valkey_version" not in info and int(version.partition(".")[0]) < OLDEST_MAJOR:
        return f"is version {version}, too old: expected 7.0 or newer", "sudo apt install redis-server"
    if info["role"] != "master" and info.get("slave_read_only", 1):
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        return "is a read-only replica", f"connect to its master, redis://{master}"
    if not info["aof_enabled"] and not allow_volatile:
        return "keeps nothing: appendonly is no", setting("appendonly", "yes")
    if info["maxmemory"] and info["maxmemory_policy"] != "noeviction":
        policy = info["maxmemory_policy"]
        return f"may drop streams: maxmemory-policy is {policy}", setting("maxmemory-policy", "noeviction")
    return None


def setting(key: str, value: str) -> str:
    """Return the command that changes a setting now and in the configuration file."""
    return f"{{cli}} CONFIG SET {key} {value} && {{cli}} CONFIG REWRITE"
