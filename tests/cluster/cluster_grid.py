"""The cluster: its server, routers, agents and clients, wired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orion_streams.model.commit import CURSOR
from tests.cluster.cluster_agents import Agent
from tests.cluster.cluster_clients import Client
from tests.cluster.cluster_house import CLIENTS, configuration
from tests.cluster.cluster_machine import Machine
from tests.cluster.cluster_routers import RouterProcess
from tests.cluster.cluster_server import Line, Server, accept_loss
from tests.cluster.world_clock import World


class Cluster:
    """A server and everybody around it. `runs`: how often each work id began to generate; `refusals`: why
    routers refused to start."""

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
        """Yield everybody's way to the server."""
        yield from (each.line for each in self.routers)
        yield from (each.line for each in self.agents)
        yield from (each.line for each in self.clients)

    def start(self) -> None:
        """Start all processes."""
        for agent in self.agents:
            agent.start()
        for router in self.routers:
            router.boot()
        for client in self.clients:
            client.start()

    def is_done(self) -> bool:
        """Return whether every request has its end."""
        return all(each.is_finished for each in self.clients)

    def rests(self) -> bool:
        """Return whether nothing is open, in hand or unread, and a router knows it."""
        return (
            self.is_done()
            and not any(agent.core.jobs or not agent.is_alive for agent in self.agents)
            and all(self.cursor(stream) == self.server._tops.get(stream) for stream in self.inputs())
            and any(self.is_settled(router) for router in self.routers)
        )

    def inputs(self) -> list[str]:
        """Return the names of the input streams that there are."""
        return [stream for stream in self.server.streams if stream.startswith(("req", "res", "hea"))]

    def cursor(self, stream: str) -> str:
        """Return the id up to which the router has taken a stream."""
        return self.server.held.get(CURSOR + stream, "0-0")

    def is_settled(self, process: RouterProcess) -> bool:
        """Return whether this router is at the end of the log and has nothing open."""
        router = process.router
        return (
            router is not None
            and not router.state.grid.open
            and router.guard.number == int(self.server.held.get("number", 0))
            and not any(node.assignments for node in router.state.grid.nodes.values())
        )
