"""A real gateway for the page: on a real server, with the real router, in one event loop.

STAND-INS write what agents write; minutes of their past are written in seconds, by moving the clock that
the router reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec

from orion_streams.agents import gateway_server
from orion_streams.agents.router import Router
from orion_streams.config import Config, parse
from orion_streams.protocol.agent_entries import InstalledModel, ResidentModel
from orion_streams.runtime.connection import connect
from tests.conftest import STREAMS_TOML, ServerStore
from tests.contract.contract_grid import stop
from tests.helpers import Agent, Run, ask, settle

MASTER, WORKER, EDGE = "orion-master", "orion-worker", "orion-edge"
SMALL, BIG, CODER = "gemma3:4b", "llama3.2:3b", "qwen2.5-coder:1.5b"
MORE_MODELS = tuple(f"hf.co/somebody/a-model-of-a-long-name-{n}-GGUF:Q4_K_M" for n in range(2))
INSTALLED = tuple(
    InstalledModel(name, f"digest of {name}", size_mb)
    for name, size_mb in ((SMALL, 3_338), (BIG, 2_019), (CODER, 986), *((name, 30) for name in MORE_MODELS))
)
STEP_MS, BEAT_S = 2_500, 0.4
RUN_STEPS = 7
ANSWER: dict[str, Any] = {
    "tokens": 96,
    "prompt_tokens": 210,
    "prefill_ms": 2_100,
    "decode_ms": 14_300,
    "total_ms": 16_400,
}
CLIENTS = ("home-assistant", "open-webui", "alice")
Health = dict[str, Any]


class Node(Agent):
    """A stand-in for an agent. `health`: what its entries say from now on; it is silent without."""

    def __init__(self, store: ServerStore, name: str, *, inference: bool = True, **health: Any) -> None:
        super().__init__(store, name)
        self.installed = INSTALLED if inference else ()
        self.health: Health | None = {"ram_total_mb": 8_063, "cpu_permille": 180, **health}
        self._sampled = count(1_000_000_000, 1_000)

    def holds(self, *models: str) -> None:
        """Have these models in memory."""
        assert self.health is not None
        rows = tuple(
            ResidentModel(row.name, row.digest, row.size_mb) for row in self.installed if row.name in models
        )
        self.health = {**self.health, "resident": rows}

    async def live(self) -> list[Run]:
        """Write a health entry, and take what was sent."""
        if self.health is None:
            return []
        await self.beat(**self.health)
        return await self.read_work()


class PageStage:
    """A grid that a test plays. `url`: of the gateway, once it serves."""

    def __init__(self, store: ServerStore, config: Config, nodes: list[Node]) -> None:
        self.store, self.config, self.nodes = store, config, {node.node: node for node in nodes}
        self.router = Router(store.log, config)
        self.url = ""
        self._serving: asyncio.Task[None] | None = None
        self._playing: asyncio.Task[None] | None = None

    async def serve(self, port: int = 0) -> None:
        """Start the gateway."""
        where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        work = gateway_server.run(self.config, insecure=False, port=port, ready=where.set_result)
        self._serving = asyncio.create_task(work)
        waits: set[asyncio.Future[Any]] = {self._serving, where}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        assert where.done(), "the gateway did not start"
        self.url = where.result()

    async def stop_serving(self) -> None:
        """Stop the gateway, as a signal does."""
        if self._serving is not None:
            await stop([self._serving])

    def play(self) -> None:
        """Let the nodes and the router go on, at the pace of agents."""
        self._playing = asyncio.create_task(self._plays())

    async def rest(self) -> None:
        """Stop nodes and router. Raise what they failed with."""
        if self._playing is not None:
            await stop([self._playing])
            if not self._playing.cancelled():
                self._playing.result()
            self._playing = None

    async def passes(
        self, minutes: float, change: Callable[[float], None] = lambda _: None, every: int = 0
    ) -> None:
        """Let the time before now pass; `change` is told how many minutes are left before each step, and in
        every so manieth something is asked, and answered RUN_STEPS later."""
        begun: deque[list[tuple[Node, Run]]] = deque()
        for step in reversed(range(int(minutes * 60_000 / STEP_MS))):
            change(step * STEP_MS / 60_000)
            if every and step and step % every == 0:
                await ask(self.store, f"p{step}", CLIENTS[step // every % len(CLIENTS)], model=SMALL)
            begun.append(await self.step())
            for node, run in begun.popleft() if len(begun) > RUN_STEPS else ():
                await node.complete(run, **ANSWER)
            self.store.skip(STEP_MS)
        for node, run in chain.from_iterable(begun):
            await node.complete(run, **ANSWER)

    async def step(self) -> list[tuple[Node, Run]]:
        """Each node writes once, the router takes it; what was sent to nodes is said to have begun."""
        begun = []
        for node in self.nodes.values():
            for run in await node.live():
                await node.say(run, "started")
                begun.append((node, run))
        await settle(self.router)
        return begun

    async def asked(
        self, number: int, clients: tuple[str, ...] = ("brain",), models: tuple[str, ...] = (SMALL,)
    ) -> None:
        """Requests of these clients in turn, taken by the router."""
        for n in range(number):
            client = clients[n % len(clients)]
            prompt = "Why? " * (1 + n * 37 % 90)
            await ask(self.store, f"q{n}", client, model=models[n * n % len(models)], prompt=prompt)
        await settle(self.router)

    async def _plays(self) -> None:
        pace = asyncio.Event()
        while True:
            await self.step()
            try:
                await asyncio.wait_for(pace.wait(), BEAT_S)
            except TimeoutError:
                continue


def configured(url: str, prefix: str, folder: Path, more: tuple[str, ...]) -> Config:
    """The repository's streams.toml with more clients and nodes."""
    added = "".join(f"[clients.{name}]\n" for name in CLIENTS)
    added += "".join(f"[nodes.{name}]\ntiers = [2]\n" for name in more)
    text = STREAMS_TOML.read_text(encoding="utf-8").replace("[clients.cli]", f"{added}[clients.cli]")
    config = parse(text, str(STREAMS_TOML))
    table = msgspec.structs.replace(config.gateway, keys_file=str(folder / "keys.json"))
    redis = msgspec.structs.replace(config.redis, url=url)
    policy = msgspec.structs.replace(config.policy, plan_every_ms=0)  # stand-ins load nothing
    return msgspec.structs.replace(config, prefix=prefix, redis=redis, gateway=table, policy=policy)


def house(store: ServerStore, more: tuple[str, ...]) -> Iterator[Node]:
    """The three nodes of streams.toml, and more."""
    yield Node(store, MASTER, temp_mc=51_300, ram_used_mb=5_200)
    yield Node(store, WORKER, temp_mc=58_300, ram_used_mb=4_900)
    yield Node(store, EDGE, inference=False, temp_mc=46_200, ram_total_mb=4_096, ram_used_mb=1_320)
    for name in more:
        yield Node(store, name, temp_mc=55_000, ram_used_mb=4_700)


Prepare = Callable[[PageStage], Awaitable[None]]


@asynccontextmanager
async def page_stage(
    url: str,
    prefix: str,
    folder: Path,
    prepare: Prepare,
    *,
    before_minutes: float = 0,
    more: tuple[str, ...] = (),
) -> AsyncIterator[PageStage]:
    """A grid with its past, and a gateway in front of it, while the block runs. `prepare` makes the past,
    which begins so many minutes before now; `more`: nodes beside the house's three."""
    redis = connect(url)
    store = ServerStore("valkey", redis, prefix)
    store.skip(-int(before_minutes * 60_000))
    config = configured(url, prefix, folder, more)
    stage = PageStage(store, config, list(house(store, more)))
    await stage.router.start()
    await prepare(stage)
    try:
        await stage.serve()
        stage.play()
        yield stage
    finally:
        await stage.rest()
        await stage.stop_serving()
        for key in await store.dump():
            await store.drop(key)
        await redis.aclose()
