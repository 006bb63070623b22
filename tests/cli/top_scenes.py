"""Views for `orion top`: grids of every kind, as its source would give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from orion_streams.gateway.page_recent import Recent
from orion_streams.gateway.page_rows import View
from orion_streams.gateway.page_view import SIMULATED, whole
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark, RequestKind
from orion_streams.projections import apply
from tests.grids import AT_MS, DISK, HEAVY, MEMORY, MODEL, edge, holding, loading, node, request, sample
from tests.grids import grid as grid_of

SERVER_MS = 1_795_960_800_000
LONG = "qwen2.5-coder:14b-instruct-q4_K_M"
ATTIC = "orion-worker-in-the-attic"


def view_of(grid: Grid, *events: ev.AnyEvent, away_ms: int = 0, simulated: bool = False) -> View:
    """The view of a grid in which these events were the last ones."""
    grid.server_ms, grid.position = SERVER_MS, grid.position or 1_000
    recent = Recent()
    recent.begin(grid)
    for event in events:
        apply(grid, event)
        recent.take(grid, event)
    if simulated:
        grid.nodes = {name: replace(row, engine=SIMULATED) for name, row in grid.nodes.items()}
    return whole(grid, away_ms, away_ms, recent)


def house(**of_worker: Any) -> Grid:
    """The three nodes of the house: the robot, one that answers, and one that loads."""
    run = holding(
        MODEL, 40_000, since_ms=AT_MS - 12_000, request="brain/3f2a91c0aa", started=True, attempt=1
    )
    load = holding(HEAVY, 90_000, since_ms=AT_MS - 5_000, request="open-webui/77be", started=True,
                   load_ms=30_000, cold=True)  # fmt: skip
    worker: dict[str, Any] = {"temp_mc": 71_300, "assignments": {"8-0": load}, "resident": {}, **of_worker}
    return grid_of(
        edge(),
        node("orion-master", tiers=(1,), assignments={"7-0": run}, resident=MEMORY, cpu_permille=870),
        node("orion-worker", tiers=(2,), **worker),
        open_requests={
            "brain/3f2a91c0aa": request(node="orion-master", work_id="7-0", started=True),
            "open-webui/77be": request(model=HEAVY, node="orion-worker", work_id="8-0", started=True),
        },
    )


def quiet() -> View:
    """All well."""
    return view_of(grid_of(edge(), node("orion-master", resident=MEMORY), node("orion-worker")))


def hot() -> View:
    """One node is too hot, two requests wait, some were decided."""
    grid = house(temp_mc=78_400, backed_off=(Mark.HOT,), assignments={})
    del grid.open["open-webui/77be"]
    for n in range(2):
        grid.open[f"kitchen/{n}aa7c{n}52e1d"] = request(
            accepted=900 + n, accepted_ms=AT_MS - 30_000 * n, model=(MODEL, HEAVY)[n]
        )
    accepted = ev.RequestAccepted("brain/new", "1-0", RequestKind.CHAT, MODEL, 60_000, 10, 4)
    return view_of(
        grid, ev.NodeBackedOff("orion-worker", Mark.HOT, 78_400, 75_000), accepted, sample("orion-master")
    )


def dead() -> View:
    """One node is silent, another's breaker is open."""
    grid = house(heard_ms=AT_MS - 95_000, assignments={})
    grid.nodes["orion-attic"] = node("orion-attic", opened_ms=AT_MS - 5_000, open_ms=15_000)
    return view_of(grid)


def crowd(waiting: int = 200, nodes: int = 3) -> View:
    """So many wait on so many nodes, all with long names."""
    runs = [
        holding(
            LONG, 600_000, request=f"open-webui/{n}{'0f' * 16}", started=True, since_ms=AT_MS - 60_000 * n
        )
        for n in range(nodes)
    ]
    names = [f"{ATTIC}-{n}" for n in range(nodes)]
    disk = {**DISK, LONG: DISK[HEAVY]}
    rows = [
        node(name, installed=disk, resident={LONG: MEMORY[HEAVY]}, assignments={f"{n}-0": runs[n]})
        for n, name in enumerate(names)
    ]
    grid = grid_of(*rows)
    for n, run in enumerate(runs):
        grid.open[run.request] = request(model=LONG, node=names[n], work_id=f"{n}-0", started=True)
    for n in range(waiting):
        grid.open[f"home-assistant/{n:04}{'ab' * 14}"] = request(
            accepted=n + 1, accepted_ms=AT_MS - 1_000 * n, model=LONG if n % 2 else MODEL, priority=n % 3
        )
    accepted = [
        ev.RequestAccepted(f"c{n}/x", "1-0", RequestKind.CHAT, LONG, 60_000, 10, 4) for n in range(3)
    ]
    failed = [ev.RequestFailed(each.request, "attempts_exhausted") for each in accepted]
    return view_of(grid, *accepted, *failed)


def loads() -> View:
    """A node that loads what the plan wants there, in a SIMULATED house."""
    grid = house(assignments={"8-0": loading(HEAVY, 30_000, since_ms=AT_MS - 10_000)})
    del grid.open["open-webui/77be"]
    return view_of(grid, simulated=True)


def empty() -> View:
    """No node at all."""
    return view_of(grid_of())


def away() -> View:
    """Redis has not answered for a while."""
    grid = house()
    grid.at_ms += 42_000
    return view_of(grid, away_ms=42_000)


SCENES: dict[str, Callable[[], View]] = {
    "quiet": quiet,
    "busy": lambda: view_of(house()),
    "hot": hot,
    "dead": dead,
    "crowd": crowd,
    "one": lambda: crowd(3, 1),
    "eight": lambda: crowd(200, 8),
    "loads": loads,
    "empty": empty,
    "away": away,
}
