"""The processes: a Faust app per role, and the one place that wires each."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any

import faust
from redis.exceptions import RedisError

from orion_streams.agents.backend import Backend, Echo
from orion_streams.agents.health import Health, Residency
from orion_streams.agents.ollama_backend import Ollama
from orion_streams.agents.results import ResultWriter
from orion_streams.agents.router import Router
from orion_streams.agents.sensors import Machine, Sensors, SimulatedMachine
from orion_streams.agents.worker import Worker
from orion_streams.config import Config, NodeConfig, log_level
from orion_streams.errors import ConfigError, OrionError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.policy import ROBOT
from orion_streams.model.server_urls import shown
from orion_streams.runtime.connection import connect, end_if_cancelled, will_pass
from orion_streams.runtime.faust_redis import (
    STEADY_S,
    App,
    Feeder,
    StreamChannel,
    away,
    refused,
    supervised,
)

log = logging.getLogger("orion")

KEEP_EVERY_S, KEEP_FIRST_S = 10.0, 1.0
"""The first round comes early: else cuts that come often would put all rounds off."""
FOLLOW_BLOCK_MS = 1000


def router_app(config: Config) -> App:
    """The router as a Faust app: one task for the loop, a timer for snapshots and trimming."""
    app = App("orion-router")
    redis = connect(config.redis.url)
    store = RedisLog(redis, config.prefix)
    router = Router(store, config)

    async def route_once() -> None:
        await lead(router, config, lambda: app.outages.worked("router"))

    @app.task
    async def route() -> None:
        await end_on_error(app, lambda: supervised("router", route_once, app.outages))

    app.closers += [router.retention.close, redis.aclose]
    return app


async def lead(router: Router, config: Config, back: Callable[[], None] = lambda: None) -> None:
    """Start from the log, then reconcile for ever. Raises RedisError when the server goes away: whoever
    repeats this starts from the log again. `back` is called as long as the server takes commits."""
    await router.start()
    await router.make_groups()
    await router.look_for_losses()
    log.info("leading from position %d", router.state.grid.position)
    loop = asyncio.get_running_loop()
    began_s, keep_s = loop.time(), loop.time() + min(KEEP_FIRST_S, KEEP_EVERY_S)
    while True:
        end_if_cancelled()
        if router.following:
            await router.follow(FOLLOW_BLOCK_MS)
            back()
            continue
        if loop.time() >= keep_s:
            await router.make_groups()
            await router.look_for_losses()  # before anything is trimmed by cursors of what is gone
            await router.retention.keep(router.state, router.guard)
            keep_s = loop.time() + KEEP_EVERY_S
        block_ms = min(config.redis.block_ms, config.policy.max_step_ms // 2)
        if await router.cycle(block_ms) or loop.time() - began_s > STEADY_S:
            back()  # reads alone say nothing of a server that refuses writes


def agent_app(config: Config, node: str) -> App:
    """A node's agent as a Faust app: an agent on the work channel, a timer for health."""
    table = config.node(node)
    app = App(f"orion-agent-{node}")
    redis, blocking = connect(config.redis.url), connect(config.redis.url)
    kept = config.retention.results_entries
    results = ResultWriter(redis, config.key("results", node), kept, app.outages)
    backend = make_backend(table, config)
    channel = StreamChannel(app, redis=blocking, key=config.key("work", node))
    worker = Worker(config, node, channel, results, backend) if table.inference else None
    residency = Residency(backend, config.limits.inventory_ms) if table.inference else None
    beats = StreamChannel(
        app,
        redis=redis,
        key=config.key("health", node),
        keep_entries=config.retention.health_entries,
    )
    sensors = make_sensors(table)
    health = Health(beats, sensors, residency, worker, results)

    @app.timer(interval=config.limits.health_ms / 1000, on_leader=False)
    async def beat() -> None:
        try:
            await health.beat()
        except (RedisError, OSError) as error:
            if will_pass(error):
                app.outages.failed("health", away(error))
            else:
                app.end(refused(beats.key_name, error))
        else:
            app.outages.worked("health")

    if worker is not None and residency is not None:
        app.closers += [residency.close, worker.stop]

        @app.agent(channel)
        async def work(items: faust.StreamT[Any]) -> None:
            async for item in items:
                await worker.handle(item)

        @app.task
        async def write_results() -> None:
            await end_on_error(app, results.run)

        async def catch_up() -> None:
            residency.tell_anew()  # health may have missed the cut, and the server lost the last list
            await worker.catch_up()

        @app.task
        async def feed() -> None:
            block_ms = config.redis.block_ms
            feeder = Feeder(channel, block_ms, catch_up, worker.noticed, worker.drained)
            await app.add_runtime_dependency(feeder)

    app.closers += [sensors.close, backend.close, redis.aclose, blocking.aclose]
    return app


def make_backend(table: NodeConfig, config: Config) -> Backend:
    """Ollama, or the echo of `echo://`."""
    if table.ollama.startswith("echo:"):
        return Echo()
    return Ollama(table, config.limits.num_predict_max)


def make_sensors(table: NodeConfig) -> Sensors:
    """This machine's, unless the node is a simulated one."""
    return SimulatedMachine(table.ollama) if table.simulated else Machine()


async def end_on_error(app: App, work: Callable[[], Awaitable[None]]) -> None:
    """Do it; an error that waiting cannot mend ends the process with one line and its exit code."""
    try:
        await work()
    except OrionError as error:
        app.end(error)
    except RedisError as error:
        app.end(refused("redis", error))


def lock_node(config: Config, node: str) -> IO[str]:
    """Keep a second agent of the same node and grid away from this machine. ConfigError if there is one.
    The lock is held as long as the file stays open."""
    grid = hashlib.blake2b(f"{shown(config.redis.url)} {config.prefix}".encode(), digest_size=8).hexdigest()
    path = Path(tempfile.gettempdir()) / f"orion-agent-{os.getuid()}-{node}-{grid}.lock"
    try:
        held = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    except OSError as error:
        raise ConfigError(f"the lock {path} cannot be used: {error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise ConfigError(f"an agent of {node} runs on this machine already ({path})") from None
    return held


def run_router(config: Config) -> int:
    """Run the router until a signal. The exit code. Raises ConfigError."""
    return run(router_app(config))


def run_agent(config: Config, node: str) -> int:
    """Run a node's agent until a signal. The exit code. Raises ConfigError."""
    if config.node(node).inference and socket.gethostname().partition(".")[0] == ROBOT:
        raise ConfigError(f"this is {ROBOT}, the robot: it never runs inference, not even as {node}")
    with lock_node(config, node):
        return run(agent_app(config, node))


class Foreground(faust.Worker):
    """Faust's worker, which ends as soon as all is done: mode would sleep for a second more."""

    async def _sentinel_task(self) -> None:
        return


def run(app: App) -> int:
    """Run a Faust app in the foreground, with clean stops on SIGINT and SIGTERM. Raises ConfigError."""
    log_to_stderr(log_level())
    worker = Foreground(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.spinner = None  # it writes to stdout
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        if app.fatal is None:
            return end.code if isinstance(end.code, int) else 0
    return app.fatal.exit_code if app.fatal else 0


def log_to_stderr(level: str) -> None:
    """Our own log lines from `level` on; of the libraries only what is wrong. Raises ConfigError."""
    try:
        logging.basicConfig(
            level=level.upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        )
    except ValueError as error:
        raise ConfigError(f"ORION_LOG: {error}: expected debug, info, warning or error") from error
    for noisy in ("faust", "mode", "orion_streams", "httpx", "httpcore", "asyncio"):  # ours is "orion"
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mode.timers").setLevel(logging.ERROR)  # a late timer is no news on a busy Pi
