"""What goes wrong by itself: kills, cuts, clocks, a server that comes back older, heat, sick Ollamas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partialmethod

from orion_streams.model.commit import CURSOR
from orion_streams.model.state import parse_stream_id
from tests.cluster.cluster_faults import BY_THEMSELVES, RATES
from tests.cluster.cluster_grid import Cluster
from tests.cluster.cluster_house import MODELS
from tests.cluster.cluster_server import Line

AT_FULL_RATE = 3
"""Of more kinds than these each comes more seldom: a grid that never gets to work proves little."""
HOUR_MS = 3_600_000
HOT_MC = (76_000, 79_000, 88_000)


class Nemesis:
    """Brings the faults of a run upon a cluster, until all is healed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.world = cluster, cluster.world
        self.rng = self.world.rng("nemesis")
        self._away = 0
        kinds = [kind for kind in BY_THEMSELVES if kind in self.world.faults]
        self._thin = max(len(kinds) / AT_FULL_RATE, 1.0)
        for kind in kinds:
            self._later(kind, round(self.world.rng(kind).randint(50, 1_500) * self._thin))

    def _later(self, kind: str, delay_ms: int) -> None:
        self.world.at(delay_ms, self._strike, kind)

    def _strike(self, kind: str) -> None:
        if self.world.is_healed:
            return
        every_ms = round(getattr(RATES, kind) * self._thin)
        self._later(kind, self.rng.randint(every_ms // 4, every_ms * 7 // 4))
        act: Callable[[], bool] = getattr(self, f"_{kind}")
        if act():
            self.world.happened[kind] += 1

    def heal(self) -> None:
        """End all faults: everybody and everything is back."""
        self.world.is_healed = True
        cluster = self.cluster
        for line in cluster.lines():
            line.is_cut = False
        for agent in cluster.agents:
            agent.machine.heal()
            if not agent.is_alive:
                agent.start()
        for router in cluster.routers:
            if not router.is_alive:
                router.boot()
        for client in cluster.clients:
            client.slow_ms = 0
        if self.world.happened["deleted_stream"]:
            self._start_routers_anew()

    # processes and lines

    def _span(self, longest_ms: int) -> int:
        return self.rng.randint(20, longest_ms)

    def _kill_router(self) -> bool:
        router = self.rng.choice(self.cluster.routers)
        if not router.is_alive:
            return False
        router.kill()
        self.world.at(self._span(3_000), self._boot, router)
        return True

    def _boot(self, router: object) -> None:
        for each in self.cluster.routers:
            if each is router and not each.is_alive:
                each.boot()

    def _kill_agent(self) -> bool:
        agent = self.rng.choice(self.cluster.agents)
        if not agent.is_alive:
            return False
        agent.kill()
        self.world.at(self._span(9_000), lambda: None if agent.is_alive else agent.start())
        return True

    def _cut(self, lines: Sequence[Line], longest_ms: int) -> bool:
        line = self.rng.choice(lines)
        line.is_cut = True
        self.world.at(self._span(longest_ms), lambda: setattr(line, "is_cut", False))
        return True

    def _cut_router(self) -> bool:
        return self._cut([each.line for each in self.cluster.routers], 9_000)

    def _cut_agent(self) -> bool:
        return self._cut([each.line for each in self.cluster.agents], 12_000)

    def _cut_client(self) -> bool:
        return self._cut([each.line for each in self.cluster.clients], 4_000)

    def _slow_reader(self) -> bool:
        client = self.rng.choice(self.cluster.clients)
        client.slow_ms = self.rng.randint(100, 2_000)
        self.world.at(self._span(6_000), lambda: setattr(client, "slow_ms", 0))
        return True

    # the server

    def _clock_jump(self) -> bool:
        off_ms = self.world.clock_off_ms
        self.world.clock_off_ms = 0 if off_ms else self.rng.choice((-HOUR_MS, HOUR_MS, 7_000, -7_000))
        return True

    def _server_away(self) -> bool:
        if self._away:
            return False
        self._go_away(self._span(5_000))
        return True

    def _go_away(self, span_ms: int) -> None:
        self._away += 1
        self.cluster.server.is_down = True
        self.world.at(span_ms, self._come_back)

    def _come_back(self) -> None:
        self._away -= 1
        self.cluster.server.is_down = False
        self.cluster.server.life += 1

    def _lost_tail(self) -> bool:
        if self._away:
            return False
        self._away += 1  # nothing else befalls the server meanwhile
        self.cluster.server.mark()
        self.world.at(self._span(1_000), self._die)
        return True

    def _die(self) -> None:
        self._away -= 1
        self.cluster.server.lose_tail()
        self._go_away(self._span(3_000))

    def _deleted_stream(self) -> bool:
        """Delete the health of a node, so that the server forgets how far its ids had come."""
        if self._away:
            return False
        self.cluster.server.delete(f"health:{self.rng.choice(self.cluster.machines).name}")
        self.world.at(self._span(4_000), self._start_routers_anew)
        return True

    def _start_routers_anew(self) -> None:
        """Start all routers anew, as an owner does who wonders why a node is silent."""
        for router in self.cluster.routers:
            router.kill()
            router.boot()

    def _deleted_body(self) -> bool:
        """Delete a request that was taken: it cannot run any more, and has to end."""
        server = self.cluster.server
        stream = self.rng.choice(self.cluster.clients).requests
        cursor = parse_stream_id(server.held.get(CURSOR + stream, "0-0"))
        taken = [each for each in server.streams.get(stream, {}) if parse_stream_id(each) <= cursor]
        if not taken:
            return False
        server.streams[stream].pop(self.rng.choice(taken[-5:]))
        return True

    # machines

    def _heat(self) -> bool:
        machine = self.rng.choice(self.cluster.machines)
        machine.target_mc = self.rng.choice(HOT_MC)
        self.world.at(self._span(5_000), machine.heal)
        return True

    def _full_memory(self) -> bool:
        machine = self.rng.choice(self.cluster.machines)
        machine.other_mb = machine.ram_total_mb * self.rng.randint(80, 99) // 100
        self.world.at(self._span(5_000), machine.heal)
        return True

    def _model_removed(self) -> bool:
        machine = self.rng.choice(self.cluster.machines)
        name = self.rng.choice(tuple(MODELS))
        machine.installed.pop(name, None)
        machine.resident.pop(name, None)
        self.world.at(self._span(6_000), machine.heal)
        return True

    def _sicken(self, how: str) -> bool:
        machine = self.rng.choice(self.cluster.machines)
        machine.failing = how
        self.world.at(self._span(3_000), machine.heal)
        return True

    _ollama_error = partialmethod(_sicken, "error")
    _ollama_hang = partialmethod(_sicken, "hang")
    _ollama_away = partialmethod(_sicken, "away")
    _ollama_busy = partialmethod(_sicken, "busy")
    _ollama_cut = partialmethod(_sicken, "cut")
