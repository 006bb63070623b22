"""The grid of `orion chaos`: real processes, each with its own proxy between it and the server."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orion_streams.demo.simulated_grid import GEMMA, SimulatedGrid, SimulatedNode, three_nodes, with_models
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer, Fsync, free_port
from orion_streams.runtime.supervisor import Say
from orion_streams.simulation.machine_spec import ModelSpec
from tests.chaos.proxy import Proxy
from tests.needs import faketime

ROUTERS = ("router", "router 2")
QUIET_PORTS = (20_000, 32_000)
START_S = 60.0
"""Of a gateway, which waits for a server that is away."""
CLIENTS = ("brain", "gateway", "cli")
INFERENCE = ("orion-master", "orion-worker")
EDGE = "orion-edge"
OTHER = ModelSpec(name="other:270m", size_mb=GEMMA.size_mb)
PULLED = ModelSpec(name="pulled:1b", size_mb=800)
PULL_MB_PER_S = 40.0
"""On machines sped up: a pull takes a second."""

SETTINGS: dict[str, dict[str, Any]] = {
    "": {"pull_from": ["registry.ollama.ai"]},
    "policy": {
        "stale_ms": 2_500,
        "gone_samples": 3,
        "max_attempts": 30,
        "max_step_ms": 1_000,
        "breaker_open_ms": 1_000,
        "breaker_open_max_ms": 2_000,
        "retry_ms": 2_000,
        "spill_ms": 500,
        "attempt_deadline_ms": 20_000,
        "load_us_per_mb": 800,
        "prefill_us_per_mb": 1,
        "decode_us_per_mb": 25,
        "prior_tokens": 16,
        "dedupe_keep": 2_000,
    },
    "limits": {
        "health_ms": 500,
        "inventory_ms": 1_500,
        "inter_token_ms": 3_000,
        "load_deadline_ms": 6_000,
        "drain_ms": 500,
        "lose_before_following": 3,
    },
    "retention": {"snapshot_events": 2_000, "replies_entries": 6_000},
}
"""A configuration for machines sped up. Replies and requests are trimmed while the load goes on."""


def cast() -> tuple[SimulatedNode, ...]:
    """Return the house's three nodes, sped up, with two small models on those that answer, and a third to
    be pulled."""
    return with_models(
        three_nodes(),
        (GEMMA, OTHER),
        disk_mb_per_s=1_500,
        prefill_tokens_per_s=2_000,
        decode_tokens_per_s=100,
        slots=2,
        heat_mc=8_000,
        time_scale=20,
        registry=(PULLED,),
        net_mb_per_s=PULL_MB_PER_S,
    )


class ChaosGrid(SimulatedGrid):
    """Two routers, three nodes, a gateway, and a server. `proxies`: by role or client. `clock_file`: the
    offset of the server's clock, if libfaketime is installed. `gateway_deaths`: how often the gateway was
    killed."""

    router_count = len(ROUTERS)

    def __init__(self, folder: Path, binary: Path | None, fsync: Fsync, say: Say) -> None:
        settings = {**SETTINGS, "redis": {"fsync": fsync, "block_ms": 1_000}}
        super().__init__(cast(), folder=folder, settings=settings, say=say, gateway=True)
        self.gateway_deaths, self.gateway_is_up, self.gateway_port = 0, False, quiet_port()
        self._starting: asyncio.Task[None] | None = None
        self.proxies: dict[str, Proxy] = {}
        self.clock_file = folder / "clock"
        # libfaketime does not work with the malloc of Debian's Redis
        library = faketime() if binary is None else None
        self.server = EmbeddedServer(
            folder / "redis", fsync, free_port(), binary, faked(library, self.clock_file)
        )
        self.can_move_clock = library is not None

    def url_for(self, role: str) -> str:
        """Return the address of the role's proxy."""
        return self.proxies[role].url

    async def start(self) -> None:
        """Start everything."""
        await super().start()
        self.gateway_is_up = True

    async def kill_gateway(self) -> None:
        """Kill the gateway with SIGKILL; it stays down until `start_gateway`."""
        self.gateway_is_up = False
        self.gateway_deaths += 1
        if self.gateway is not None:
            await self.gateway.kill()

    async def start_gateway(self) -> None:
        """Start the gateway again, at the same port; who is cancelled meanwhile leaves no half-made one."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_again())
        await asyncio.shield(self._starting)

    async def _start_again(self) -> None:
        if self.gateway is not None and not self.gateway_is_up:
            await self.gateway.kill()  # one that waits for a server may be there
            await self.gateway.start(START_S)
        self.gateway_is_up = True

    async def stop(self) -> None:
        """Stop everything, the proxies last."""
        self.resume_server()
        for proxy in self.proxies.values():
            proxy.join()
        await super().stop()
        for proxy in self.proxies.values():
            await proxy.stop()

    async def _start_server(self) -> str:
        self.move_clock(0)
        self._server = self.server
        url = await asyncio.to_thread(self.server.start)
        agents = (f"agent {name}" for name in self.nodes)
        self.proxies = {name: Proxy(url) for name in (*ROUTERS, *agents, *CLIENTS)}
        for proxy in self.proxies.values():
            await proxy.start()
        return url

    async def kill_server(self) -> None:
        """Kill the server with SIGKILL; `restart_server` restores what its file holds."""
        await asyncio.to_thread(self.server.kill)

    async def restart_server(self) -> None:
        """Start the server again at the same address."""
        await asyncio.to_thread(self.server.start)

    def hang_server(self) -> None:
        """Stop the server with SIGSTOP."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def resume_server(self) -> None:
        """Resume the server with SIGCONT."""
        with suppress(ProcessLookupError):
            if self.server.pid:
                os.kill(self.server.pid, signal.SIGCONT)

    def move_clock(self, by_s: int) -> None:
        """Set the offset of the server's clock."""
        fresh = self.clock_file.with_suffix(".new")
        fresh.write_text(f"{by_s:+d}\n", encoding="utf-8")
        fresh.replace(self.clock_file)

    def limit_files(self, more_bytes: int | None) -> None:
        """Let the server's files grow by so many bytes, as on a nearly full disk; None: without limit."""
        limit = resource.RLIM_INFINITY
        if more_bytes is not None:
            grown = [each.stat().st_size for each in self.server.data_dir.rglob("*.aof")]
            limit = max(grown, default=0) + more_bytes
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    async def tell_server(self, *command: Any) -> Any:
        """Send one command to the server directly, without a proxy."""
        redis: Any = connect(self.redis_url, 5.0)
        try:
            return await redis.execute_command(*command)
        finally:
            await redis.aclose()


def quiet_port() -> int:
    """Return a free port that no connection gets by itself while the gateway is dead: Linux gives those
    from 32,768 on."""
    rng = random.SystemRandom()
    while True:
        port = rng.randrange(*QUIET_PORTS)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def faked(library: Path | None, clock_file: Path) -> Mapping[str, str]:
    """Return the environment of a server whose clock follows a file."""
    if library is None:
        return {}
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock_file),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
