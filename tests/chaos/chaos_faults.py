"""The faults of `orion chaos`, each with the promise that must hold all the same.

A fault breaks something, holds it broken for a while, and mends it. Faults of one target never overlap;
faults of different targets do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from redis.exceptions import RedisError

from orion_streams.client.calls import RequestFailedError, RequestTimeoutError
from orion_streams.client.streams_client import AsyncClient
from orion_streams.demo.observer import Observer
from orion_streams.errors import BackendError
from tests.chaos.chaos_grid import CLIENTS, INFERENCE, PULLED, ROUTERS, ChaosGrid
from tests.chaos.chaos_load import ChaosClients
from tests.chaos.lasting import lasts

HOUR_S, SHORT_OUTAGE_S = 3_600, 4.0
MOVES_S, REST_MS = 1.0, 20_000
"""A drained node has handed over what it has in so long: limits.drain_ms, and what the router takes."""
LEAVE_S = 30.0
"""Of an agent that drains, also while its server is away."""


@dataclass
class Scene:
    """What faults act on. `outage_s`: of the server's first outage; later ones take SHORT_OUTAGE_S."""

    grid: ChaosGrid
    observer: Observer
    load: ChaosClients
    rng: random.Random
    outage_s: float
    kills: int = 0

    def count_kill(self) -> None:
        """Count a kill if any request is open."""
        self.kills += bool(self.observer.open())


Inject = Callable[[Scene, str], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`targets`: what it may be done to, one at a time. `share`: its frequency relative to others."""

    name: str
    promise: str
    inject: Inject
    targets: tuple[str, ...]
    share: int = 1


AGENTS = tuple(f"agent {name}" for name in INFERENCE)
MACHINES = tuple(f"machine {name}" for name in INFERENCE)
OLLAMAS = tuple(f"ollama {name}" for name in INFERENCE)
SERVER = ("server",)


def parts_of(target: str) -> frozenset[str]:
    """Return what a target takes: a machine, its agent and its Ollama, and of machines one at a time."""
    kind, _, node = target.partition(" ")
    return frozenset((f"agent {node}", f"ollama {node}", "machines") if kind == "machine" else (target,))


def node_of(target: str) -> str:
    """Return the node of a target."""
    return target.partition(" ")[2]


async def kill_agent(scene: Scene, target: str) -> None:
    node = node_of(target)
    await kill(scene, scene.grid.kill_agent(node))
    await scene.grid.start_agent(node)


async def stop_agent(scene: Scene, target: str) -> None:
    agent = scene.grid.agents[node_of(target)]
    await agent.stop(LEAVE_S)
    await lasts(scene.rng.uniform(0, 0.5))
    await agent.start()


async def reboot(scene: Scene, target: str) -> None:
    """Drain a node, as a person does before a reboot; its agent and its Ollama end, start again, and it is
    resumed. Its rest ends by itself if the resume is lost."""
    grid, node = scene.grid, node_of(target)
    async with operator(grid) as person:
        await person.drain(node, REST_MS, last=True)
        await lasts(MOVES_S)
        try:
            await grid.agents[node].stop(LEAVE_S)
            await grid.ollamas[node].stop()
            await lasts(scene.rng.uniform(0, 0.5))
        finally:
            if grid.ollamas[node].pid is None:
                await grid.start_ollama(node)
            await grid.start_agent(node)
        await person.resume(node)


async def pull_under_agent(scene: Scene, target: str) -> None:
    await pull(scene, node_of(target), lambda: kill_agent(scene, target))


async def pull_under_router(scene: Scene, target: str) -> None:
    await pull(scene, scene.rng.choice(INFERENCE), lambda: kill_router(scene, target))


async def pull(scene: Scene, node: str, kill_something: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Pull a model, as a person does, kill something half-way, and wait for the end; what was pulled is
    removed again."""
    killing: asyncio.Task[None] | None = None
    async with operator(scene.grid) as person:
        name = person.new_id()
        try:
            async with aclosing(person.pull(PULLED.name, node, request_id=name)) as steps:
                async for step in steps:
                    if step.completed and killing is None:
                        killing = asyncio.create_task(kill_something())
            await person.remove(PULLED.name, node)
        except RequestTimeoutError:
            scene.load.gave_up.append(f"pull {name} onto {node}")
        except RequestFailedError as error:
            scene.load.codes[error.code] += 1
        finally:
            if killing is not None:
                await killing


def operator(grid: ChaosGrid) -> AsyncClient:
    """Return the client of a person who looks after the grid."""
    return AsyncClient(grid.redis_url, CLIENTS[-1], prefix=grid.config.prefix, give_up_s=LEAVE_S)


async def kill(scene: Scene, killing: Awaitable[None]) -> None:
    """Kill a process; it stays away for up to half a second."""
    scene.count_kill()
    await killing
    await lasts(scene.rng.uniform(0, 0.5))


async def kill_router(scene: Scene, target: str) -> None:
    router = scene.rng.choice(scene.grid.routers)
    await kill(scene, router.kill())
    await router.start()


async def kill_both_routers(scene: Scene, target: str) -> None:
    for router in scene.grid.routers:
        scene.count_kill()
        await router.kill()
    await lasts(scene.rng.uniform(0, 0.5))
    await asyncio.gather(*(router.start() for router in scene.grid.routers))


async def kill_gateway(scene: Scene, target: str) -> None:
    await kill(scene, scene.grid.kill_gateway())
    await scene.grid.start_gateway()


async def kill_ollama(scene: Scene, target: str) -> None:
    node = node_of(target)
    await kill(scene, scene.grid.ollamas[node].kill())
    await scene.grid.start_ollama(node)


async def kill_server(scene: Scene, target: str) -> None:
    await kill_server_for(scene, scene.rng.uniform(0, 0.3))


async def kill_server_for(scene: Scene, away_s: float) -> None:
    """Kill the server and start it again; the observer checks what it has lost."""
    scene.count_kill()
    await scene.grid.kill_server()
    await lasts(away_s)
    await scene.grid.restart_server()
    await scene.observer.look_again()


async def server_gone(scene: Scene, target: str) -> None:
    away_s, scene.outage_s = scene.outage_s, SHORT_OUTAGE_S
    await kill_server_for(scene, away_s)


async def hang_server(scene: Scene, target: str) -> None:
    scene.grid.hang_server()
    await lasts(scene.rng.uniform(1, 3))
    scene.grid.resume_server()


async def server_out_of_memory(scene: Scene, target: str) -> None:
    used = (await scene.grid.tell_server("INFO", "memory"))["used_memory"]
    await scene.grid.tell_server("CONFIG", "SET", "maxmemory", used)
    await lasts(scene.rng.uniform(1, 2))
    await scene.grid.tell_server("CONFIG", "SET", "maxmemory", 0)


async def disk_full(scene: Scene, target: str) -> None:
    """Fill the disk: with fsync always the server ends itself, else it refuses writes for a while."""
    scene.grid.limit_files(10_000)
    await lasts(scene.rng.uniform(1.5, 2.5))
    if scene.grid.server.has_ended:
        await kill_server_for(scene, 0)
    else:
        scene.grid.limit_files(None)


async def cut_connections(scene: Scene, target: str) -> None:
    for proxy in scene.grid.proxies.values():
        proxy.cut()


async def lose_answers(scene: Scene, target: str) -> None:
    """Cut connections between a command and its answer: nobody knows whether it was executed."""
    proxies = scene.grid.proxies
    chosen = (*CLIENTS, scene.rng.choice(ROUTERS), scene.rng.choice(AGENTS))
    for name in chosen:
        proxies[name].word = b"EVALSHA" if name in ROUTERS else b"XADD"
        proxies[name].lose_answers = 2
    await lasts(1.5)
    for name in chosen:
        proxies[name].lose_answers = 0


async def part_node(scene: Scene, target: str) -> None:
    """Part a node from the server: its results arrive long after its attempts were given up."""
    await part(scene, [target], scene.rng.uniform(4, 7))


async def part_router(scene: Scene, target: str) -> None:
    await part(scene, [scene.rng.choice(ROUTERS)], scene.rng.uniform(2, 4))


async def part_clients(scene: Scene, target: str) -> None:
    await part(scene, CLIENTS, scene.rng.uniform(1, 2))


async def part(scene: Scene, names: Sequence[str], seconds: float) -> None:
    """Part these roles or clients from the server for so many seconds."""
    for name in names:
        scene.grid.proxies[name].part()
    await lasts(seconds)
    for name in names:
        scene.grid.proxies[name].join()


async def move_clock(scene: Scene, target: str) -> None:
    scene.grid.move_clock(scene.rng.choice((-HOUR_S, HOUR_S)))
    await lasts(scene.rng.uniform(1, 2))
    scene.grid.move_clock(0)


async def poison(scene: Scene, target: str) -> None:
    scene.load.poison(scene.grid.redis_url, scene.grid.config.prefix)


async def forge_agent_entries(scene: Scene, target: str) -> None:
    """Write garbage to the streams of the robot's agent, as a broken agent would."""
    prefix = scene.grid.config.prefix
    for stream in ("health:orion-edge", "results:orion-edge"):
        for head in (
            b"{",
            b"\xff\x00",
            b"[" * 5_000,
            b'{"op":"completed","request":"brain/x","attempt":1}',
        ):
            await scene.grid.tell_server("XADD", prefix + stream, "*", "head", head)


async def drop_group(scene: Scene, target: str) -> None:
    """Delete the consumer group through which an agent reads its work; the router creates it anew."""
    stream = scene.grid.config.key("work", node_of(target))
    await scene.grid.tell_server("XGROUP", "DESTROY", stream, "agent")
    await lasts(1)


def ollama(kind: str, times: int = 2) -> Inject:
    """Return a fault that makes a simulated Ollama misbehave."""

    async def inject(scene: Scene, target: str) -> None:
        await scene.grid.fault(node_of(target), kind, times)
        await lasts(1)
        await scene.grid.fault(node_of(target), kind, 0)

    return inject


async def overheat(scene: Scene, target: str) -> None:
    """Heat a node above 85 °C while it works; then let it cool down."""
    await scene.grid.push(node_of(target), temp_mc=88_000)
    await lasts(3)
    await scene.grid.push(node_of(target), temp_mc=50_000)


async def fill_memory(scene: Scene, target: str) -> None:
    node = node_of(target)
    await scene.grid.push(node, extra_ram_mb=scene.grid.nodes[node].spec.ram_total_mb)
    await lasts(2)
    await scene.grid.push(node, extra_ram_mb=0)


FAULTS = (
    Fault("kill_agent", "what it ran ends as agent_restarted and runs again", kill_agent, AGENTS, 7),
    Fault("stop_agent", "it hands its work over and says goodbye", stop_agent, AGENTS, 4),
    Fault("reboot", "drained before, it hands over all it has, and is back", reboot, MACHINES, 3),
    Fault("kill_router", "the other one goes on; nothing is decided twice", kill_router, ("routers",), 6),
    Fault("kill_both_routers", "what waits is taken up again", kill_both_routers, ("routers",), 2),
    Fault("kill_gateway", "only its own connections break", kill_gateway, ("gateway",), 3),
    Fault("kill_ollama", "the attempt fails on the node and runs again", kill_ollama, OLLAMAS, 6),
    Fault("kill_server", "fsync always loses nothing; else a resend mends it", kill_server, SERVER, 4),
    Fault("server_gone", "everybody waits, and goes on by himself", server_gone, SERVER),
    Fault("hang_server", "everybody waits; nothing is written twice", hang_server, SERVER),
    Fault("server_out_of_memory", "a refused commit wrote nothing", server_out_of_memory, SERVER),
    Fault("disk_full", "what was refused comes again", disk_full, SERVER),
    Fault("pull_under_agent", "it is told failed; the next one goes on", pull_under_agent, AGENTS, 2),
    Fault("pull_under_router", "it goes on and is told done, once", pull_under_router, ("routers",), 2),
    Fault("cut_connections", "everybody connects again", cut_connections, ("proxies",)),
    Fault("lose_answers", "a write whose answer is lost has one effect", lose_answers, ("proxies",), 2),
    Fault("part_node", "its old attempts are refused when it comes back", part_node, AGENTS, 2),
    Fault("part_router", "the other one leads", part_router, ("routers",)),
    Fault("part_clients", "their requests and answers wait for them", part_clients, ("proxies",)),
    Fault("move_clock", "an hour's jump expires nothing", move_clock, SERVER),
    Fault("poison", "one rejected reply for each, nobody else notices", poison, ("poison",)),
    Fault("forge_agent_entries", "garbage of one node changes nothing", forge_agent_entries, ("edge",)),
    Fault("drop_group", "the router makes it again, no work is lost", drop_group, AGENTS),
    Fault("ollama_error_line", "an error line in a stream is no answer", ollama("error_line"), OLLAMAS),
    Fault("ollama_no_done", "an end without `done` is no answer", ollama("end_without_done"), OLLAMAS, 2),
    Fault("ollama_hang", "silence ends the attempt", ollama("hang", 1), OLLAMAS),
    Fault("ollama_busy", "a 503 is tried again", ollama("busy"), OLLAMAS),
    Fault("ollama_not_found", "a removed model is asked for elsewhere", ollama("not_found"), OLLAMAS),
    Fault("ollama_cut", "a closed connection is tried again", ollama("kill"), OLLAMAS),
    Fault("overheat", "it backs off, its work moves, it returns", overheat, OLLAMAS),
    Fault("fill_memory", "it backs off and returns", fill_memory, OLLAMAS),
)  # fmt: skip


async def mend(scene: Scene) -> None:
    """Undo whatever a fault left broken, so that everything runs again."""
    grid = scene.grid
    grid.resume_server()
    if grid.server.has_ended or not grid.server.pid:
        await grid.kill_server()
        await grid.restart_server()
        await scene.observer.look_again()
    grid.limit_files(None)
    grid.move_clock(0)
    for proxy in grid.proxies.values():
        proxy.lose_answers = 0
        proxy.join()
    with suppress(RedisError, OSError):
        await grid.tell_server("CONFIG", "SET", "maxmemory", 0)
    for name in INFERENCE:
        if grid.ollamas[name].pid is None:
            await grid.start_ollama(name)
        if grid.agents[name].pid is None:
            await grid.start_agent(name)
        with suppress(httpx.HTTPError, BackendError):
            await grid.push(name, temp_mc=50_000, extra_ram_mb=0)
    if not grid.gateway_is_up:
        await grid.start_gateway()
    for router in grid.routers:
        if router.pid is None:
            await router.start()
