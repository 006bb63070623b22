"""The roles of this machine as child processes; without a Redis also the embedded server."""

from __future__ import annotations

import asyncio
import socket
import sys

from orion_streams.cli.outcome import tell
from orion_streams.config import Config, with_url
from orion_streams.errors import ConfigError
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.state import Grid
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer, data_dir
from orion_streams.runtime.server_check import check_server, wait_for_server
from orion_streams.runtime.supervisor import Child, Say, stop_all

ROUTER, GATEWAY, AGENT, ALERTS = "router", "gateway", "agent:", "alerts"
READY_S, GRACE_S = 20.0, 10.0
LOOK_EVERY_MS = 500


class LocalRoles:
    """Runs `roles`, such as "router,agent:NODE"; by default those of host name and configuration."""

    def __init__(self, config: Config, config_file: str, *, roles: str | None, port: int, say: Say) -> None:
        self.config, self.config_file = config, config_file
        self.roles = choose(self.config, roles, socket.gethostname().partition(".")[0])
        self.redis_url = self.config.redis.url
        self.models: list[str] = []
        self._server: EmbeddedServer | None = None
        if not self.redis_url:
            folder = data_dir(self.config.redis.data_dir)
            self._server = EmbeddedServer(folder, self.config.redis.fsync, port)
        self._say = say
        self._children: dict[str, Child] = {}
        self._missing: list[str] = []
        """The agents of this machine that had not been heard when it was waited for them."""

    async def start(self) -> None:
        """Wait for the configured server if it is unreachable, start everything, and wait up to READY_S
        until all agents are in the log. Raises BackendError, ConfigError; then nothing is left running."""
        try:
            if self._server is not None:
                self.redis_url = await asyncio.to_thread(self._server.start)
                self.config = with_url(self.config, self.redis_url)
            redis = connect(self.redis_url)
            try:
                await (wait_for_server(redis, tell) if self._server is None else check_server(redis))
                before = (await load(RedisLog(redis, self.config.prefix))).grid
                await self._start_children()
                await self._wait_for_agents(RedisLog(redis, self.config.prefix), before)
            finally:
                await redis.aclose()
        except BaseException:
            await self.stop()
            raise

    @property
    def gateway_url(self) -> str:
        """Return where the gateway of this machine listens; "" without one."""
        child = self._children.get(GATEWAY)
        return str(child.announced.get("gateway_url", "")) if child is not None else ""

    def check(self) -> None:
        """Raise BackendError if the embedded server ended by itself, ConfigError if the agents that were
        waited for cannot come, for one of them or the router cannot run, or no role is left."""
        if self._server is not None:
            self._server.check()
        asked = {role: child for role, child in self._children.items() if role != ALERTS}
        ended = {role: child for role, child in asked.items() if child.gave_up}
        awaited = [f"{AGENT}{name}" for name in self._missing]
        why = [role for role in (ROUTER, *awaited) if self._missing and role in ended]
        if why or (ended and len(ended) == len(asked)):
            child = ended[why[0]] if why else next(iter(ended.values()))
            raise ConfigError(f"{child.name} cannot run: {child.last_words()}")

    async def stop(self) -> None:
        """Stop whoever tells of alerts, gateway, agents, router and server, in this order, each within
        GRACE_S; agents may drain before."""
        drain_s = self.config.limits.drain_ms / 1000
        graces = ((ALERTS, GRACE_S), (GATEWAY, GRACE_S), (AGENT, drain_s + GRACE_S), (ROUTER, GRACE_S))
        for kind, grace_s in graces:
            await stop_all(
                [each for role, each in self._children.items() if role.startswith(kind)], grace_s
            )
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    def hurry(self) -> None:
        """End agents that drain at once."""
        for child in self._children.values():
            child.hurry()

    async def _start_children(self) -> None:
        # The URL may hold a password, so it is no argument; no other password may apply to its server.
        env = {"ORION_REDIS_URL": self.redis_url, "ORION_REDIS_PASSWORD": ""}
        for role in self.roles:
            name, _, node = role.partition(":")
            argv = [sys.executable, "-m", "orion_streams.cli", name]
            argv += ["run"] if name == ALERTS else []
            argv += ["--node", node] if node else []
            argv += ["--config", self.config_file] if self.config_file else []
            argv += ["--json"] if name == GATEWAY else []
            self._children[role] = Child(
                role, argv, env=env, announces=name == GATEWAY, say=self._say, remark=self._say
            )
        await asyncio.gather(*(child.start() for child in self._children.values()))

    async def _wait_for_agents(self, store: RedisLog, before: Grid) -> None:
        """Wait until all agents are in the log, which shows that a router leads, here or elsewhere."""
        grid = before
        try:
            async with asyncio.timeout(READY_S):
                while missing := self._unheard(before, grid):
                    self._missing = missing
                    self.check()
                    await store.read({"log": f"{grid.position}-0"}, 1, block_ms=LOOK_EVERY_MS)
                    grid = (await load(store)).grid
                self._missing = []
        except TimeoutError:
            who = ", ".join(self._missing)
            self._say("up", f"not heard of after {READY_S:.0f} s: {who}; is a router running?")
        found = {m for node in grid.nodes.values() if node.rules.inference for m in node.installed}
        self.models = sorted(found)

    def _unheard(self, before: Grid, now: Grid) -> list[str]:
        """List the agents of this machine that the log has no entry of since they were started."""
        missing = []
        for name in (role.removeprefix(AGENT) for role in self.roles if role.startswith(AGENT)):
            node, old = now.nodes.get(name), before.nodes.get(name)
            if node is None or node.heard_ms is None or (old is not None and node.boot == old.boot):
                missing.append(name)
        return missing


def choose(config: Config, wanted: str | None, host: str) -> list[str]:
    """Return the roles to run here. Raises ConfigError that says how to choose."""
    if wanted is not None:
        return [checked(config, role.strip()) for role in wanted.split(",")]
    if host not in config.nodes:
        known = ", ".join(f"{AGENT}{name}" for name in sorted(config.nodes))
        raise ConfigError(
            f"this machine is called {host}, which is no node in streams.toml: choose with "
            f"--roles (router, gateway, {known}), or play with --simulated"
        )
    leads = config.nodes[host].router or not config.redis.url
    tells = [ALERTS] if config.alerts_to and config.alerts else []
    return [*([ROUTER, GATEWAY, *tells] if leads else []), f"{AGENT}{host}"]


def checked(config: Config, role: str) -> str:
    """Return the role if it is valid. Raises ConfigError otherwise."""
    if role.startswith(AGENT):
        config.node(role.removeprefix(AGENT))
    elif role not in (ROUTER, GATEWAY, ALERTS):
        roles = f"{ROUTER}, {GATEWAY}, {ALERTS} or {AGENT}NODE"
        raise ConfigError(f"--roles: expected {roles}, got {role or 'nothing'!r}")
    return role
