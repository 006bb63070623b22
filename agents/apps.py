"""Wire each role as a Faust app, and run it as a process."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from signal import SIGTERM, Signals
from typing import IO, Any, cast

import faust
from redis.exceptions import RedisError

from orion_streams.agents.backend import Backend, Echo
from orion_streams.agents.health import Health, Residency
from orion_streams.agents.ollama_backend import Ollama
from orion_streams.agents.results import ResultWriter
from orion_streams.agents.router import Router
from orion_streams.agents.sensors import LocalSensors, Sensors, SimulatedSensors
from orion_streams.agents.worker import Worker
from orion_streams.config import Config, NodeConfig
from orion_streams.environment import log_level
from orion_streams.errors import ConfigError, OrionError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.policy import ROBOT
from orion_streams.model.server_urls import shown
from orion_streams.runtime.connection import away, connect, end_if_cancelled, refused, will_pass
from orion_streams.runtime.faust_redis import (
    STEADY_S,
    App,
    Feeder,
    StreamChannel,
    supervised,
)
from orion_streams.runtime.process_log import log_to_stderr

log = logging.getLogger("orion")

KEEP_EVERY_S, KEEP_FIRST_S, KEEP_EVERY_EVENTS = 10.0, 1.0, 10_000
"""A round of retention comes after so much time, or so many events of the log, whatever is sooner: so it
keeps up with any rate. The first one comes early, or frequent outages would postpone it for ever."""
FOLLOW_BLOCK_MS = 1000


def router_app(config: Config) -> App:
    """Return the router as a Faust app with one task."""
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
    """Load the grid, then reconcile until cancelled. Raise RedisError when the server goes away; calling
    again loads the grid again. `back` is called as long as the server takes commits."""
    await router.start()
    await router.make_groups()
    await router.look_for_losses()
    log.info("leading from position %d", router.state.grid.position)
    loop, kept = asyncio.get_running_loop(), router.state.grid.position
    began_s, keep_s = loop.time(), loop.time() + min(KEEP_FIRST_S, KEEP_EVERY_S)
    while True:
        end_if_cancelled()
        if router.following:
            await router.follow(FOLLOW_BLOCK_MS)
            back()
            continue
        if loop.time() >= keep_s or router.state.grid.position - kept >= KEEP_EVERY_EVENTS:
            router.note_missing_pins()
            await router.make_groups()
            await router.look_for_losses()  # before trimming by the cursors of a deleted stream
            await router.retention.keep(router.state, router.guard)
            keep_s, kept = loop.time() + KEEP_EVERY_S, router.state.grid.position
        block_ms = min(config.redis.block_ms, config.policy.max_step_ms // 2)
        if await router.cycle(block_ms) or loop.time() - began_s > STEADY_S:
            back()  # a server that refuses writes still answers reads


def agent_app(config: Config, node: str) -> App:
    """Return a node's agent as a Faust app that reports health and, with inference, takes work."""
    table, keep = config.node(node), config.retention
    app = App(f"orion-agent-{node}")
    redis, blocking = connect(config.redis.url), connect(config.redis.url)
    results = ResultWriter(redis, config.key("results", node), keep.results_entries, app.outages)
    backend = make_backend(table, config)
    sensors: Sensors = SimulatedSensors(table.ollama) if table.simulated else LocalSensors()
    beats = StreamChannel(
        app, redis=redis, key=config.key("health", node), keep_entries=keep.health_entries
    )

    async def report(goodbye: bool = False) -> None:
        try:
            await health.beat(goodbye)
        except (RedisError, OSError) as error:
            if will_pass(error):
                app.outages.failed("health", away(error))
            else:
                app.end(refused(beats.key_name, error))
        else:
            app.outages.worked("health")

    if table.inference:
        channel = StreamChannel(app, redis=blocking, key=config.key("work", node))
        worker = Worker(config, node, channel, results, backend)
        residency = Residency(backend, config.limits.inventory_ms)
        health = Health(beats, sensors, residency, worker.core, results)

        async def tell_disk() -> None:
            residency.look_again()
            await report()

        worker.disk.changed = tell_disk
        app.closers += [residency.close, worker.stop]

        @app.task
        async def write_results() -> None:
            await end_on_error(app, results.run)

        feeder = take_work(app, channel, worker, residency, config.redis.block_ms)
        app.leave = partial(leave, worker, feeder, report)
    else:
        health = Health(beats, sensors, None, None, results)
        app.leave = partial(report, goodbye=True)

    @app.timer(interval=config.limits.health_ms / 1000, on_leader=False)
    async def report_health() -> None:
        await report()

    app.closers += [sensors.close, backend.close, redis.aclose, blocking.aclose]
    return app


async def leave(worker: Worker, feeder: Feeder, report: Callable[[bool], Awaitable[None]]) -> None:
    """End well: drain while health says so and what still comes is handed back, then read no more and say
    goodbye. One that cannot hand back what it holds leaves without a word, as if it had been killed."""
    worker.core.leaving = True
    await report(False)  # before anything is handed back, or the router would send it here again
    await worker.drain()
    await feeder.stop()
    if await worker.is_empty():
        await report(True)


def take_work(
    app: App, channel: StreamChannel, worker: Worker, residency: Residency, block_ms: int
) -> Feeder:
    """Read the work channel, and give each item to the worker. Return what reads it."""

    @app.agent(channel)
    async def work(items: faust.StreamT[Any]) -> None:
        async for item in items:
            await worker.handle(item)

    async def catch_up() -> None:
        residency.news.tell_anew()  # an outage may have lost the last list that health reported
        await worker.catch_up()

    feeder = Feeder(channel, block_ms, catch_up, worker.noticed, worker.core.drained)

    @app.task
    async def feed() -> None:
        await app.add_runtime_dependency(feeder)

    return feeder


def make_backend(table: NodeConfig, config: Config) -> Backend:
    """Return the node's Ollama, or an echo for `echo:` URLs."""
    if table.ollama.startswith("echo:"):
        return Echo()
    return Ollama(table, config.limits.num_predict_max)


async def end_on_error(app: App, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work; end the process with one line and an exit code for an error that waiting cannot mend."""
    try:
        await work()
    except OrionError as error:
        app.end(error)
    except RedisError as error:
        app.end(refused("redis", error))


def lock_node(config: Config, node: str) -> IO[str]:
    """Lock this node of this grid on this machine until the file is closed. Raise ConfigError if another
    agent holds the lock."""
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


def choose_loop(config: Config) -> None:
    """Put the configured event loop into force for this process. Raise ConfigError where it is missing."""
    if config.event_loop == "uvloop":
        try:
            import uvloop  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError(
                "event_loop: uvloop is not installed: pip install 'orion-streams[fast]'"
            ) from error
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def run_router(config: Config) -> int:
    """Run the router until a signal. Return the exit code. Raise ConfigError."""
    choose_loop(config)
    return run(router_app(config))


def run_agent(config: Config, node: str) -> int:
    """Run a node's agent until a signal. Return the exit code. Raise ConfigError."""
    if config.node(node).inference and socket.gethostname().partition(".")[0] == ROBOT:
        raise ConfigError(f"this is {ROBOT}, the robot: it never runs inference, not even as {node}")
    choose_loop(config)
    with lock_node(config, node):
        return run(agent_app(config, node))


class Foreground(faust.Worker):
    """Faust's worker, which lets its app leave well: SIGTERM begins that, SIGINT or a second SIGTERM ends
    the process at once. Without the second that mode sleeps after everything has stopped."""

    _leaving: asyncio.Task[None] | None = None

    def _schedule_shutdown(self, signal: Signals) -> None:
        app = cast(App, self.app)
        app.manager.stopping()
        if signal == SIGTERM and self._leaving is None and app.leave is not None and app.fatal is None:
            self._leaving = self.loop.create_task(self._leave(app.leave, signal))
            return
        if self._leaving is not None:
            self._leaving.cancel()
        super()._schedule_shutdown(signal)

    async def _leave(self, leave: Callable[[], Awaitable[None]], signal: Signals) -> None:
        try:
            await leave()
        finally:
            super()._schedule_shutdown(signal)

    async def _sentinel_task(self) -> None:
        return


def run(app: App) -> int:
    """Run a Faust app in the foreground until a signal. Return the exit code. Raise ConfigError."""
    log_to_stderr(log_level())
    worker = Foreground(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.spinner = None  # it writes to stdout
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        if app.fatal is None:
            return end.code if isinstance(end.code, int) else 0
    return app.fatal.exit_code if app.fatal else 0
