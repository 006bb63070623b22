"""The simulated grid of `orion simulate --faults`, with a script in place of chance.

Router, agents and server are those of the simulation; what befalls them, and when, is written down. All
times are virtual ms since the beginning: the same script gives the same log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from orion_streams.errors import CommitConflictError
from orion_streams.model.commit import Commit, Snapshot
from tests.cluster.cluster_agents import Agent
from tests.cluster.cluster_grid import Cluster
from tests.cluster.cluster_routers import RouterProcess
from tests.cluster.one_run import undisturbed

MASTER, WORKER, EDGE = "orion-master", "orion-worker", "orion-edge"
SMALL, MIDDLE, BIG = "gemma3:270m", "qwen3:0.6b", "llama3.2:3b"
SEED = 1
OPERATOR = "cli"


NOT_QUIET: Mapping[str, str] = {}


class Scene(Cluster):
    """A grid whose script is being written; `play` lets it happen. `slots` of each node, `policy` what
    replaces the simulation's rules; `quiet`: quiet hours by node; a snapshot is kept every so many
    events. `committed` and `refused` count each router's commits."""

    def __init__(
        self,
        routers: int = 1,
        slots: int = 2,
        snapshot_events: int = 10_000,
        quiet: Mapping[str, str] = NOT_QUIET,
        **policy: int,
    ) -> None:
        super().__init__(SEED, 0, frozenset({"two_routers"} if routers == 2 else ()))
        nodes = {
            name: structs.replace(node, slots=slots, quiet=quiet.get(name, ""))
            for name, node in self.config.nodes.items()
        }
        self.config = structs.replace(
            self.config,
            nodes=nodes,
            policy=structs.replace(self.config.policy, **policy),
            retention=structs.replace(self.config.retention, snapshot_events=snapshot_events),
        )
        for agent in self.agents:
            agent.config, agent.rules = self.config, nodes[agent.name]
        self.committed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        for router in self.routers:
            router.config = self.config
            self._count(router)

    def _count(self, router: RouterProcess) -> None:
        write = router.line.commit

        async def counted(commit: Commit) -> None:
            try:
                await write(commit)
            except CommitConflictError:
                self.refused[router.name] += 1
                raise
            self.committed[router.name] += 1

        router.line.commit = counted

    def agent(self, name: str) -> Agent:
        """A node's agent, whose machine is `.machine` and whose way to the server is `.line`."""
        return next(each for each in self.agents if each.name == name)

    # the script

    def at(self, at_ms: int, act: Callable[..., Any], *arguments: Any) -> None:
        """Something is to happen then."""
        self.world.at(at_ms - self.world.now_ms, act, *arguments)

    def ask(self, at_ms: int, name: str, model: str = BIG, **fields: Any) -> None:
        """The Brain writes a request."""
        asked = {"id": name, "model": model, "prompt": f"What of {name}?", "stream": "0"} | fields
        self.put(at_ms, "requests:brain", asked)

    def put(self, at_ms: int, stream: str, fields: Mapping[Any, Any]) -> None:
        """An entry is written to a stream, by whomever."""
        self.at(at_ms, self.server.put, stream, fields)

    def operate(self, at_ms: int, **fields: Any) -> None:
        """A person does something."""
        self.put(at_ms, f"requests:{OPERATOR}", {"id": f"at {at_ms}"} | fields)

    def machine(self, at_ms: int, name: str, **changes: Any) -> None:
        """A machine changes: target_mc, other_mb, failing, …"""
        for field, value in changes.items():
            self.at(at_ms, setattr, self.agent(name).machine, field, value)

    def when_told(self, request_id: str, kind: str, act: Callable[[], None]) -> None:
        """Something is to happen as soon as the Brain has got such a reply."""
        pending = [act]

        def look() -> None:
            fields = self.server.journal.entries[-1].fields
            if pending and (fields[b"id"], fields[b"kind"]) == (request_id.encode(), kind.encode()):
                self.world.at(1, pending.pop())

        self.server.wakers.setdefault("replies:brain", []).append(look)

    def play(self, until_ms: int) -> None:
        """Let it all happen."""
        with undisturbed():
            for agent in self.agents:
                agent.start()
            for router in self.routers:
                router.boot()
            self.world.run_until(lambda: False, until_ms)

    # what came of it

    @property
    def rows(self) -> list[bytes]:
        """The whole log."""
        return self.server.journal.log

    @property
    def snapshots(self) -> list[Snapshot]:
        """Those that the routers verified and kept, the oldest first."""
        return self.server._snapshots

    def told(self, request_id: str) -> list[str]:
        """The kinds of the replies under one id, in order."""
        return [
            each.fields[b"kind"].decode()
            for each in self.server.journal.entries
            if each.stream == "replies:brain" and each.fields.get(b"id") == request_id.encode()
        ]
