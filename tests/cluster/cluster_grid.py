"""One run: the cluster is wired, the faults strike, the world heals, and everything must come to rest."""

from __future__ import annotations

import gc
import hashlib
import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from orion_streams.model.commit import CURSOR
from tests.cluster.checks import Found, check
from tests.cluster.cluster_agents import Agent
from tests.cluster.cluster_clients import Client
from tests.cluster.cluster_house import CLIENTS, DEADLINE_MS, configuration
from tests.cluster.cluster_machine import Machine
from tests.cluster.cluster_routers import RouterProcess
from tests.cluster.cluster_server import Line, Server
from tests.cluster.nemesis import Nemesis, accept_loss
from tests.cluster.world_clock import World

LONGEST_MS = 3_600_000
REST_MS = 2 * DEADLINE_MS + 60_000
QUIET_MS = 2_500


class Run(Struct):
    """What one run came to: `found` by its checks, `faults` that happened, and what it took."""

    seed: int
    requests: int
    found: Found
    faults: dict[str, int]
    recoveries: int
    refusals: int
    tail_repeats: int
    virtual_ms: int
    events: int
    commits: int
    log_digest: str


class Cluster:
    """Everything that takes part."""

    def __init__(self, seed: int, requests: int, faults: frozenset[str]) -> None:
        world = self.world = World(seed, faults)
        server = self.server = Server(world)
        self.config = configuration(world)
        self.runs: Counter[str] = Counter()
        self.refusals: list[str] = []
        self.machines = [
            Machine(name, node.ram_mb, world.rng(f"machine {name}"))
            for name, node in self.config.nodes.items()
        ]
        self.agents = [Agent(world, server, self.config, each, self._began) for each in self.machines]
        names = ("router", "other router") if "two_routers" in faults else ("router",)
        self.routers = [RouterProcess(world, server, self.config, name, self._refused) for name in names]
        if len(names) > 1:
            world.happened["two_routers"] += 1
        if "trimming" in faults:
            world.happened["trimming"] += 1
        total, quota = sum(CLIENTS.values()), requests
        self.clients = []
        for name, share in reversed(CLIENTS.items()):
            count = requests * share // total if name != next(iter(CLIENTS)) else quota
            quota -= count
            self.clients.append(Client(world, server, name, count))

    def _began(self, work_id: str) -> None:
        self.runs[work_id] += 1

    def _refused(self, why: str) -> None:
        self.refusals.append(why)
        if self.world.happened["deleted_stream"]:
            accept_loss(self.server)

    def lines(self) -> Iterator[Line]:
        """Everybody's way to the server."""
        yield from (each.line for each in self.routers)
        yield from (each.line for each in self.agents)
        yield from (each.line for each in self.clients)

    def run(self) -> bool:
        """Let it happen; whether everything came to rest."""
        for agent in self.agents:
            agent.start()
        for router in self.routers:
            router.boot()
        for client in self.clients:
            client.start()
        nemesis = Nemesis(self)
        world = self.world
        world.run_until(lambda: all(each.has_asked for each in self.clients), LONGEST_MS)
        nemesis.heal()
        healed_ms = world.now_ms
        if not world.run_until(self._is_done, healed_ms + REST_MS):
            return False
        return world.run_until(lambda: self._is_done() and self._rests(), healed_ms + 2 * REST_MS)

    def _is_done(self) -> bool:
        return all(each.is_finished for each in self.clients)

    def _rests(self) -> bool:
        """Whether nothing is open, in hand or unread, and a router knows it."""
        return (
            not any(agent.core.jobs or not agent.is_alive for agent in self.agents)
            and all(self.cursor(stream) == self.server._tops.get(stream) for stream in self.inputs())
            and any(self.is_settled(router) for router in self.routers)
        )

    def inputs(self) -> list[str]:
        """The input streams that there are."""
        return [stream for stream in self.server.streams if stream.startswith(("req", "res", "hea"))]

    def cursor(self, stream: str) -> str:
        """How far a stream was taken."""
        return self.server.held.get(CURSOR + stream, "0-0")

    def is_settled(self, process: RouterProcess) -> bool:
        """Whether this router is at the head of the log and has nothing open."""
        router = process.router
        return (
            router is not None
            and not router.state.grid.open
            and router.guard.number == int(self.server.held.get("number", 0))
            and not any(node.assignments for node in router.state.grid.nodes.values())
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the cyclic collector and without the router's log lines."""
    was_enabled, level = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        if was_enabled:
            gc.enable()


def run_one(seed: int, requests: int, faults: frozenset[str]) -> Run:
    """One run from its seed."""
    with undisturbed():
        cluster = Cluster(seed, requests, faults)
        try:
            found = check(cluster, cluster.run())
        except Exception as error:  # whatever it is, it has a seed
            found = Found()
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.breaks(
                "nothing_crashes", f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"
            )
    world, journal = cluster.world, cluster.server.journal
    return Run(
        seed=seed,
        requests=requests,
        found=found,
        faults=dict(sorted(world.happened.items())),
        recoveries=sum(each.starts for each in cluster.routers),
        refusals=len(cluster.refusals),
        tail_repeats=sum(each.tail_repeats for each in cluster.clients),
        virtual_ms=world.now_ms,
        events=len(journal.log),
        commits=len(journal.steps),
        log_digest=hashlib.blake2b(b"\n".join(journal.log), digest_size=16).hexdigest(),
    )
