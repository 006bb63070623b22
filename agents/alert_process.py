"""The process that tells people of alerts, in the foreground until a signal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError

from orion_streams.agents import alert_file, alert_targets
from orion_streams.agents.alert_file import SenderState
from orion_streams.agents.alert_sender import Sender
from orion_streams.agents.alert_targets import Target
from orion_streams.agents.alert_watch import Watch
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.config import Config
from orion_streams.environment import log_level
from orion_streams.errors import OrionError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.runtime.connection import connect, refused
from orion_streams.runtime.process_log import log_to_stderr
from orion_streams.runtime.server_check import wait_for_server
from orion_streams.runtime.service_notify import ServiceManager

log = logging.getLogger("orion.alerts")


def run(config: Config) -> int:
    """Follow the log and tell the targets until a signal. Return the exit code. Raise ConfigError without a
    target, for a secret that cannot be used, or if another process sends already."""
    log_to_stderr(log_level())
    targets, path = alert_targets.targets_of(config), alert_file.path_of(config)
    with alert_file.held(path):
        state = alert_file.read(path, config.prefix) or SenderState(config.prefix)
        names = ", ".join(target.name for target in targets)
        log.info("%d rules, told to %s, noted in %s", len(config.alerts), names, path)
        try:
            with suppress(asyncio.CancelledError):
                asyncio.run(serve(config, targets, state, path))
        except* RedisError as errors:
            raise refused("alerts", first(errors)) from None
        except* OrionError as errors:
            raise first(errors) from None
    return 0


def first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error of a group of groups."""
    error = errors.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error


async def serve(config: Config, targets: Sequence[Target], state: SenderState, path: Path) -> None:
    """Follow, watch and tell until cancelled."""
    manager = ServiceManager()
    manager.end_on_signals()
    redis = connect(config.redis.url)
    sender = Sender(config.alerts, targets, state, lambda now: alert_file.write(path, now))
    follower = GridFollower(redis, config.prefix, listeners=(sender,), log=log)
    watch = Watch(config, redis, RedisLog(redis, config.prefix), follower, sender)

    try:
        async with manager.fed():
            await wait_for_server(redis, manager.waiting(log.warning))
            manager.ready(f"telling {', '.join(target.name for target in targets)}")
            async with asyncio.TaskGroup() as tasks:
                for work in (follower.run(), sender.run(), watch.run()):
                    tasks.create_task(work)
    finally:
        sender.note()
        await redis.aclose()
