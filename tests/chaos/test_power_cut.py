"""After a power cut: everything comes back by itself, in any order, with clocks that are wrong at first.

Real processes, each under a clock of its own (libfaketime): a Pi has no clock that runs
on without power, so it boots in the past, and is put right while everything runs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from orion_streams.demo.simulated_grid import GEMMA, SimulatedGrid, with_models
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import RequestKind
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer, free_port
from tests.chaos.chaos_grid import OTHER, SETTINGS, cast, faked
from tests.helpers import WAIT_S, history
from tests.needs import faketime

MASTER = "orion-master"
ROLES = ("server", "router", "agent", "gateway")
OFFSETS_S = {"server": -86_400, "router": 3_600, "agent": -40_000_000, "gateway": -3_600}
"""Of the clocks at boot. The server's is before everything that its log holds."""
ORDERS = set(itertools.permutations(ROLES))
FEW = [("gateway", "agent", "router", "server"), ("server", "agent", "gateway", "router")]
MORE = [
    ("agent", "router", "server", "gateway"),
    ("router", "server", "gateway", "agent"),
    ("server", "router", "agent", "gateway"),
    ("agent", "gateway", "server", "router"),
]
"""With the few, each role is first once, and last once; the server stands at each place."""
REST = sorted(ORDERS - {*FEW, *MORE}) if os.environ.get("ORION_NIGHTLY") else []
GROUPS = [MORE, *(REST[n::4] for n in range(4) if REST)]
SHORT = {"options": '{"num_predict":4}'}
SLOW_MB_PER_S = 100
PINNED = f'models."{OTHER.name}"'


def clock_library() -> Path:
    """Return the library; without it every clock would be right, and the test would say nothing of them."""
    found = faketime()
    assert found, "wrong clocks take libfaketime: sudo apt install libfaketime"
    return found


class House(SimulatedGrid):
    """One machine that answers and is slow to load, a router, a gateway, a server. Each role has a clock of
    its own."""

    def __init__(self, folder: Path) -> None:
        policy = {**SETTINGS["policy"], "plan_every_ms": 500}
        settings = {**SETTINGS, "policy": policy, PINNED: {"resident_on": [MASTER]}}
        self.lines: dict[str, list[str]] = {role: [] for role in ROLES}
        slow = with_models(cast()[:1], (GEMMA, OTHER), disk_mb_per_s=SLOW_MB_PER_S)
        super().__init__(slow, folder=folder, settings=settings, say=self._note, gateway=True)
        self.library = clock_library()
        for role in ROLES:
            self.set_clock(role, 0)
        self.server = EmbeddedServer(
            folder / "redis", "always", free_port(), env=faked(self.library, self.clock("server"))
        )
        self._coming: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()

    def _note(self, name: str, line: str) -> None:
        self.lines.setdefault(name.partition(" ")[0], []).append(line)
        self._heard.set()

    async def said_something(self, role: str) -> None:
        """Wait until the role runs: it says that it waits, or what it found."""
        async with asyncio.timeout(WAIT_S):
            while not self.lines[role]:
                self._heard.clear()
                await self._heard.wait()

    def clock(self, role: str) -> Path:
        """The file with the offset of the role's clock."""
        return self.folder / f"clock-{role}"

    def set_clock(self, role: str, by_s: int) -> None:
        """Set the offset of a role's clock."""
        fresh = self.clock(role).with_suffix(".new")
        fresh.write_text(f"{by_s:+d}\n", encoding="utf-8")
        fresh.replace(self.clock(role))

    def command(self, process: str, argv: tuple[str, ...]) -> tuple[str, ...]:
        role = process.partition(" ")[0]
        env: Mapping[str, str] = faked(self.library, self.clock(role)) if role in ROLES else {}
        return ("env", *(f"{name}={value}" for name, value in env.items()), *argv) if env else argv

    async def _start_server(self) -> str:
        self._server = self.server
        return await asyncio.to_thread(self.server.start)

    async def cut_power(self) -> None:
        """Kill everything at once, the machine's Ollama with its memory too."""
        gateway = self.gateway
        assert gateway is not None
        children = (*self.routers, *self.agents.values(), *self.ollamas.values(), gateway)
        await asyncio.gather(*(each.kill() for each in children), asyncio.to_thread(self.server.kill))
        for said in self.lines.values():
            said.clear()

    async def boot(self, order: Sequence[str]) -> None:
        """Start the roles, the next one when the one before runs, or waits for what is not there yet."""
        gateway = self.gateway
        assert gateway is not None
        coming: list[asyncio.Task[None]] = []
        for role in order:
            if role == "server":
                await asyncio.to_thread(self.server.start)
                continue
            if role == "gateway":  # it announces itself only once its server is there
                coming.append(asyncio.create_task(gateway.start(WAIT_S)))
            elif role == "router":
                await self.routers[0].start()
            else:
                coming.append(asyncio.create_task(self.start_ollama(MASTER)))
                await self.start_agent(MASTER)
            await self.said_something(role)
        await asyncio.gather(*coming)

    async def ask(self, model: str) -> dict[str, Any]:
        """Ask the gateway; return its answer."""
        asked = {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": 4}}
        async with httpx.AsyncClient(base_url=self.gateway_url, timeout=WAIT_S, trust_env=False) as http:
            answer = await http.post("/api/generate", json=asked)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def loaded_since(boot: str) -> Callable[[Grid], bool]:
    """What streams.toml pins is in memory after another start of the machine, and nothing is at work."""

    def is_so(grid: Grid) -> bool:
        node = grid.nodes[MASTER]
        return node.boot != boot and OTHER.name in node.resident and not node.assignments and not grid.open

    return is_so


def warm_too_soon(events: Iterable[ev.AnyEvent]) -> list[str]:
    """List the requests that were routed after a power cut before the node was heard again, or then as to a
    warm node, though nothing had loaded their model since, and nothing was about to. A clock that goes back
    tells of the cut."""
    boot, there, found = "", set[str](), list[str]()
    is_heard, server_ms = True, 0
    models: dict[str, str] = {}
    at_work: dict[str, str] = {}
    for event in events:
        match event:
            case ev.Committed():
                is_heard = is_heard and event.server_ms >= server_ms
                server_ms = event.server_ms
            case ev.NodeSampled(boot=now) if now != boot:
                boot, there, is_heard = now, set(at_work.values()), True
            case ev.RequestAccepted():
                models[event.request] = event.model
            case ev.ModelLoaded() | ev.LoadOrdered():
                there.add(event.model)
            case ev.RequestRouted():
                model = models[event.request]
                [verdict] = [each for each in event.verdicts if each.node == event.node]
                is_warm = model in there or verdict.load_ms > 0
                if not is_heard or (boot and not is_warm):
                    found.append(event.request)
                there.add(model)
                at_work[event.request] = model
            case ev.AttemptAbandoned() | ev.AttemptFailed() | ev.RequestCompleted():
                at_work.pop(event.request, None)
            case _:
                pass
    return found


async def left_open(house: House, name: str) -> None:
    """Write a request of each model that the power cut finds unanswered."""
    redis: Any
    async with connect(house.redis_url) as redis:
        for model in (GEMMA.name, OTHER.name):
            entry = {"id": f"{name}-{model}", "model": model, "prompt": "x", "stream": "0", **SHORT}
            await redis.xadd(house.config.key("requests", "brain"), entry)


async def ends_of(house: House) -> Counter[str]:
    """Count the answers by request."""
    redis: Any
    async with connect(house.redis_url) as redis:
        rows = await redis.xrange(house.config.key("replies", "brain"))
    return Counter(fields[b"id"].decode() for _, fields in rows if fields[b"kind"] == b"done")


async def one_power_cut(house: House, order: Sequence[str], name: str) -> None:
    """Cut the power with requests open, boot in this order, and wait for what has to come."""
    boot = (await house.wait_for(house.all_known, WAIT_S)).nodes[MASTER].boot
    await left_open(house, name)
    await house.cut_power()
    for role in ROLES:
        house.set_clock(role, OFFSETS_S[role])
    await house.boot(order)
    await house.ask(GEMMA.name)
    await house.wait_for(loaded_since(boot), WAIT_S, f"{order}: what is pinned is loaded")
    assert not house.lines["agent"][0].startswith(datetime.now(UTC).strftime("%Y-")), "its clock is right"
    for role in ROLES:
        house.set_clock(role, 0)
    await house.ask(GEMMA.name)
    await house.wait_for(lambda grid: not grid.open, WAIT_S, f"{order}: every request has ended")


async def power_cuts(folder: Path, orders: Sequence[Sequence[str]]) -> None:
    """A house through a power cut for each order: every request is answered once, nothing expires, and what
    is pinned counts as warm only once it is loaded."""
    async with House(folder) as house:
        for number, order in enumerate(orders):
            await one_power_cut(house, order, f"r{number}")
        ends = await ends_of(house)
        async with connect(house.redis_url) as redis:
            events = await history(RedisLog(redis, house.config.prefix))
    models = (GEMMA.name, OTHER.name)
    assert ends == {f"r{number}-{model}": 1 for number in range(len(orders)) for model in models}
    assert not [each for each in events if isinstance(each, (ev.RequestExpired, ev.RequestFailed))]
    assert warm_too_soon(events) == []


def test_a_node_that_counts_as_warm_too_soon_is_found() -> None:
    """Control: routed without a load after another boot, before anything had loaded the model; routed by
    what the log remembers, after a cut."""
    sampled = ev.NodeSampled(MASTER, "boot 2", 0, None, 0, 0, 0)
    accepted = ev.RequestAccepted("brain/q", "1-0", RequestKind.GENERATE, OTHER.name, 0, 0, 0)
    routed = ev.RequestRouted("brain/q", 1, MASTER, "", 0, (Verdict(node=MASTER),))
    loaded = ev.ModelLoaded(MASTER, OTHER.name, "d", 1, 1)
    on, off = (ev.Committed(n, ms, 0, True, "") for n, ms in ((1, 9_000), (2, 1_000)))
    assert warm_too_soon([loaded, sampled, accepted, routed]) == ["brain/q"]
    assert warm_too_soon([sampled, loaded, accepted, routed]) == []
    assert warm_too_soon([on, sampled, loaded, accepted, off, routed]) == ["brain/q"]
    again = ev.NodeSampled(MASTER, "boot 3", 0, None, 0, 0, 0)
    assert warm_too_soon([on, sampled, loaded, accepted, off, again, loaded, routed]) == []


@pytest.mark.everything
async def test_everything_comes_back_after_a_power_cut(tmp_path: Path) -> None:
    """The server last, and the router last: what was open is answered, and what is asked then."""
    await power_cuts(tmp_path, FEW)


@pytest.mark.everything
@pytest.mark.parametrize("orders", GROUPS, ids=lambda orders: f"{len(orders)}, {'-'.join(orders[0])}")
async def test_everything_comes_back_in_any_order(tmp_path: Path, orders: list[tuple[str, ...]]) -> None:
    """More orders of server, router, agent and gateway; each night the rest of all."""
    await power_cuts(tmp_path, orders)


def test_the_chosen_orders_are_of_every_kind() -> None:
    """Each role is the first once, and the last once; the server comes at each place; none stands twice."""
    chosen = [*FEW, *MORE]
    assert {order[0] for order in chosen} == {order[-1] for order in chosen} == set(ROLES)
    assert {order.index("server") for order in chosen} == set(range(4))
    assert len(set(chosen)) == len(chosen) == 6
    assert set(chosen) <= ORDERS


def test_clocks_that_cannot_be_wrong_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: nothing is right by accident."""
    monkeypatch.setattr("tests.chaos.test_power_cut.faketime", lambda: None)
    with pytest.raises(AssertionError, match="apt install libfaketime"):
        clock_library()
