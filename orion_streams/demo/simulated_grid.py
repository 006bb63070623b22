"""Run a whole grid on this machine: real processes around simulated Ollamas.

An embedded server, simulated nodes, routers and agents, in a folder of their own. `orion up --simulated`,
the demo and the chaos tests use it.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from orion_streams import config as configuration
from orion_streams.config import Config
from orion_streams.errors import BackendError
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.state import Grid
from orion_streams.runtime.connection import connect, end_if_cancelled
from orion_streams.runtime.embedded_server import EmbeddedServer
from orion_streams.runtime.supervisor import Child, Say, silent, stop_all
from orion_streams.simulation.machine_spec import EngineName, ModelSpec, NodeSpec

READY_S = 120.0
GRACE_S = 5.0
START_S = {"synthetic": 60.0, "llama": 60.0}

GEMMA = ModelSpec(name="gemma3:270m", size_mb=253.113294)
LLAMA = ModelSpec(
    name="llama3.2:3b",
    size_mb=2019.0,
    family="llama",
    parameter_size="3.2B",
    context_length=131_072,
    capabilities=("completion", "tools"),
)
EMBEDDER = ModelSpec(
    name="nomic-embed-text:latest",
    size_mb=274.0,
    family="nomic-bert",
    parameter_size="137M",
    context_length=2_048,
    embedding_length=768,
    capabilities=("embedding",),
)


class SimulatedNode(Struct, frozen=True):
    """A node of the grid: its table in streams.toml, and the spec of its simulated machine."""

    name: str
    role: str
    spec: NodeSpec
    tiers: tuple[int, ...] = ()
    inference: bool = True

    def table(self, url: str) -> dict[str, Any]:
        """Return its [nodes.NAME] table."""
        return {
            "role": self.role,
            "inference": self.inference,
            "tiers": list(self.tiers),
            "slots": self.spec.slots,
            "ram_mb": self.spec.ram_total_mb,
            "ollama": url,
            "simulated": True,
        }


def three_nodes(engine: EngineName = "synthetic") -> tuple[SimulatedNode, ...]:
    """Return three Pis: gemma3:270m on two of them, a bigger model on the worker and one for embeddings on
    the master, none on the edge; either can pull what the other has. The llama engine has gemma3:270m."""
    bigger, embedder = ((LLAMA,), (EMBEDDER,)) if engine == "synthetic" else ((), ())
    master = NodeSpec(
        "orion-master",
        ram_total_mb=16_384,
        disk_mb_per_s=400,
        engine=engine,
        models=(GEMMA, *embedder),
        registry=(GEMMA, *bigger, *embedder),
        net_mb_per_s=100,
    )
    worker = replace(master, name="orion-worker", ram_total_mb=8_192, models=(GEMMA, *bigger), seed=1)
    edge = NodeSpec("orion-edge", ram_total_mb=4_096, models=(), seed=2)
    return (
        SimulatedNode("orion-master", "orchestrator and validator", master, tiers=(1,)),
        SimulatedNode("orion-worker", "heavy analysis", worker, tiers=(2,)),
        SimulatedNode("orion-edge", "robot, kinematics only", edge, inference=False),
    )


def with_models(
    nodes: Sequence[SimulatedNode], models: tuple[ModelSpec, ...], **spec: Any
) -> tuple[SimulatedNode, ...]:
    """Give the nodes that take requests these models, and all nodes other values of their specs."""
    return tuple(
        replace(node, spec=replace(node.spec, models=models if node.inference else (), **spec))
        for node in nodes
    )


class SimulatedGrid:
    """A grid of processes. Use it as an async context manager, or call `start` and `stop`.

    `settings`: tables of streams.toml to set, e.g. {"policy": {"stale_ms": 3000}}; under "" the keys above
    them. `say` gets what the processes print, `remark` what happens to them unasked, such as a restart.
    Without a `folder` it makes a temporary one and removes it at the end. `redis`: the URL of a server, or
    the port of an embedded one (0: any free port). `gateway`: one on a free port belongs to it.
    """

    router_count, gateway_port = 1, 0

    def __init__(
        self,
        nodes: Sequence[SimulatedNode] | None = None,
        *,
        folder: Path | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        say: Say = silent,
        remark: Say = silent,
        redis: str | int = 0,
        gateway: bool = False,
    ) -> None:
        self.nodes = {node.name: node for node in (nodes or three_nodes())}
        self.redis_url, self._port = (redis, 0) if isinstance(redis, str) else ("", redis)
        self.node_urls: dict[str, str] = {}
        self.engines: dict[str, str] = {}
        self.routers: list[Child] = []
        self.agents: dict[str, Child] = {}
        self.ollamas: dict[str, Child] = {}
        self.gateway: Child | None = None
        self._with_gateway, self._listen = gateway, ""
        self._settings = settings or {}
        self._say, self._remark = say, remark
        self._server: EmbeddedServer | None = None
        self._temporary = folder is None
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Return the folder of its files."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="orion-grid-"))
        return self._folder

    @property
    def config_path(self) -> Path:
        """Return the path of its streams.toml."""
        return self.folder / "streams.toml"

    @property
    def config(self) -> Config:
        """Read its configuration, as its processes do."""
        return configuration.parse(configuration.read_text(self.config_path), str(self.config_path))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything and wait until the router knows all nodes. Raises BackendError, after stopping
        what was started."""
        try:
            if not self.redis_url:
                self.redis_url = await self._start_server()
            await asyncio.gather(*(self.start_ollama(name) for name in self.nodes))
            self.config_path.write_text(self._toml(), encoding="utf-8")
            for number in range(1, self.router_count + 1):
                self.routers.append(self._role(f"router {number}" if number > 1 else "router", "router"))
            for name in self.nodes:
                self.agents[name] = self._role(f"agent {name}", "agent", "--node", name)
            await asyncio.gather(*(role.start() for role in (*self.routers, *self.agents.values())))
            if self._with_gateway:
                await self._start_gateway()
            await self.wait_for(self.all_known, READY_S)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop gateway, agents, routers, nodes and the server, in this order, each within GRACE_S. No agent
        drains: there is nobody left to take its work."""
        await stop_all([self.gateway] if self.gateway is not None else [], GRACE_S)
        await stop_all(list(self.agents.values()), GRACE_S, signal.SIGINT)
        await stop_all(self.routers, GRACE_S)
        await stop_all(list(self.ollamas.values()), GRACE_S)
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
        if self._temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def hurry(self) -> None:
        """Do nothing: nobody drains."""

    @property
    def gateway_url(self) -> str:
        """Return where the gateway listens; "" without one."""
        return str(self.gateway.announced["gateway_url"]) if self.gateway is not None else ""

    def check(self) -> None:
        """Raise BackendError if the embedded server ended by itself."""
        if self._server is not None:
            self._server.check()

    async def start_agent(self, name: str) -> None:
        """Start a node's agent that was stopped or killed."""
        await self.agents[name].start()

    async def kill_agent(self, name: str) -> None:
        """kill -9 the agent of a node; it stays down until `start_agent`."""
        await self.agents[name].kill()

    async def start_ollama(self, name: str) -> None:
        """Start a node's simulated Ollama; after the first time it keeps its port."""
        path = self.folder / f"{name}.json"
        spec = self.nodes[name].spec
        child = self.ollamas.get(name)
        if child is None:
            path.write_bytes(msgspec.json.encode(spec))
            argv = (sys.executable, "-m", "orion_streams.demo.ollama", "--spec", str(path))
            child = Child(
                f"node {name}",
                self.command(f"node {name}", argv),
                announces=True,
                say=self._say,
                remark=self._remark,
            )
            self.ollamas[name] = child
        await child.start(START_S[spec.engine])
        self.node_urls[name] = str(child.announced["url"])
        self.engines[name] = str(child.announced["engine"])
        path.write_bytes(msgspec.json.encode(replace(spec, port=httpx.URL(self.node_urls[name]).port or 0)))

    async def push(self, name: str, **readings: int) -> dict[str, Any]:
        """Set a machine's temp_mc, ambient_mc or extra_ram_mb; return its sensors."""
        return await self._control(name, "set", readings)

    async def fault(self, name: str, kind: str, times: int = 1, ms: int = 1000) -> None:
        """Arm a fault of a node's Ollama, see ollama_faults.py."""
        await self._control(name, "fault", {"kind": kind, "times": times, "ms": ms})

    async def wait_for(
        self, condition: Callable[[Grid], bool], timeout_s: float, what: str = "all nodes are known"
    ) -> Grid:
        """Wait until the grid satisfies a condition; return it. Raises BackendError after `timeout_s`."""
        try:
            return await grid_when(self.redis_url, self.config.prefix, condition, timeout_s)
        except TimeoutError as error:
            raise BackendError(f"waited {timeout_s:.0f} s in vain: {what}") from error

    def all_known(self, grid: Grid) -> bool:
        """Tell whether every node was heard from, and the inventory of those with inference is known."""
        return len(grid.nodes) == len(self.nodes) and all(
            node.heard_ms is not None and (node.inventory_known or not node.rules.inference)
            for node in grid.nodes.values()
        )

    async def _start_gateway(self) -> None:
        """Start the gateway at `gateway_port`, 0 for a free one, which it keeps from then on: streams.toml
        has it."""
        self.gateway = self._role(
            "gateway", "gateway", "--port", str(self.gateway_port), "--json", announces=True
        )
        await self.gateway.start()
        self._listen = self.gateway_url.removeprefix("http://")
        self.config_path.write_text(self._toml(), encoding="utf-8")
        self.gateway.argv = self._role("gateway", "gateway", "--json").argv

    async def _start_server(self) -> str:
        self._server = EmbeddedServer(self.folder / "redis", "everysec", self._port)
        return await asyncio.to_thread(self._server.start)

    async def _control(self, name: str, what: str, values: Mapping[str, Any]) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.node_urls[name], timeout=5, trust_env=False) as http:
            answer = await http.post(f"/sim/{what}", json=dict(values))
            if answer.is_error:
                raise BackendError(f"{name}: /sim/{what}: {answer.text.strip()}")
            return msgspec.json.decode(answer.content, type=dict[str, Any])

    def url_for(self, role: str) -> str:
        """Return the URL of Redis for a role."""
        return self.redis_url

    def command(self, process: str, argv: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command line that starts a process."""
        return argv

    def _role(self, name: str, *arguments: str, announces: bool = False) -> Child:
        argv = (sys.executable, "-m", "orion_streams.cli", *arguments, "--config", str(self.config_path))
        # an agent's lock file lies in TMPDIR: two grids on one machine do not meet
        url = self.url_for(name)
        env = {"TMPDIR": str(self.folder), "ORION_REDIS_URL": url, "ORION_REDIS_PASSWORD": ""}
        argv = self.command(name, argv)
        return Child(name, argv, env=env, announces=announces, say=self._say, remark=self._remark)

    def _toml(self) -> str:
        tables: dict[str, Mapping[str, Any]] = {
            f"nodes.{name}": node.table(self.node_urls[name]) for name, node in self.nodes.items()
        }
        tables["redis"] = {"url": self.redis_url}
        tables["gateway"] = {"keys_file": str(self.folder / "keys.json")}
        if self._listen:
            tables["gateway"] = {**tables["gateway"], "listen": self._listen}
        above = rows_of(self._settings.get("", {}))
        for name, values in self._settings.items():
            if not name:
                continue
            tables[name] = {**tables.get(name, {}), **values}
        return (
            "revision = 1\n" + above + "".join(toml_table(name, values) for name, values in tables.items())
        )


def toml_table(name: str, values: Mapping[str, Any]) -> str:
    """Format a TOML table of strings, numbers, booleans and lists, which TOML writes as JSON does."""
    return f"\n[{name}]\n" + rows_of(values)


def rows_of(values: Mapping[str, Any]) -> str:
    """Format keys and values of a table."""
    return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in values.items())


async def grid_when(url: str, prefix: str, condition: Callable[[Grid], bool], timeout_s: float) -> Grid:
    """Follow the log until its grid satisfies the condition; return the grid. Raises TimeoutError."""
    redis = connect(url)
    store = RedisLog(redis, prefix)
    try:
        async with asyncio.timeout(timeout_s):
            while not condition(grid := (await load(store)).grid):
                await store.read({"log": f"{grid.position}-0"}, 1, block_ms=500)
                end_if_cancelled()
            return grid
    finally:
        await redis.aclose()
