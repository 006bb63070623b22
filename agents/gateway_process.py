"""The gateway as a process, in the foreground until a signal."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import suppress

import msgspec
from redis.exceptions import RedisError

from orion_streams.agents import gateway_server
from orion_streams.config import Config
from orion_streams.environment import log_level
from orion_streams.errors import ConfigError
from orion_streams.model.gateway_rules import taken_by
from orion_streams.runtime.connection import connect, refused
from orion_streams.runtime.process_log import log_to_stderr
from orion_streams.runtime.server_check import wait_for_server
from orion_streams.runtime.service_notify import ServiceManager

log = logging.getLogger("orion.gateway")


def run(config: Config, insecure: bool, port: int | None, as_json: bool) -> int:
    """Serve until a signal. Return the exit code. Raise ConfigError if its place is taken, or is that of a
    node's Ollama, or the server refuses it."""
    log_to_stderr(log_level())
    check_place(config, socket.gethostname())
    manager = ServiceManager()

    def ready(url: str) -> None:
        if insecure:
            log.warning("--insecure: whoever reaches %s may ask, without a key", url)
        log.info("Ollama's and OpenAI's API at %s", url)
        manager.ready(f"serving at {url}")
        if as_json:
            sys.stdout.write(msgspec.json.encode({"gateway_url": url}).decode() + "\n")
            sys.stdout.flush()

    async def serve() -> None:
        manager.end_on_signals()
        redis = connect(config.redis.url)
        async with manager.fed():
            try:
                await wait_for_server(redis, manager.waiting(log.warning))
            finally:
                await redis.aclose()
            await gateway_server.run(config, insecure=insecure, port=port, ready=ready)

    try:
        with suppress(asyncio.CancelledError):
            asyncio.run(serve())
    except* RedisError as errors:
        raise refused("gateway", errors.exceptions[0]) from errors
    except* OSError as errors:
        place = config.gateway.listen
        what = f"gateway.listen: {place} cannot be used: {errors.exceptions[0]}"
        raise ConfigError(what) from errors
    return 0


def check_place(config: Config, host: str) -> None:
    """Raise ConfigError if the gateway would listen where a node has its Ollama, by whatever name of this
    machine that is called."""
    own = {host, host.partition(".")[0], f"{host.partition('.')[0]}.local"}
    ollamas = {name: node.ollama for name, node in config.nodes.items() if node.inference}
    for node, url in taken_by(config.gateway.place, ollamas, own):
        raise ConfigError(
            f"gateway.listen = {config.gateway.listen}: that is where {node} has its Ollama ({url}): "
            "set another port, e.g. 11435"
        )
