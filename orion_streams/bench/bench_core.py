"""Microbenchmarks of the pure core: route, decide, fold."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from orion_streams.bench.bench_rows import Row, tidy
from orion_streams.decider.decide import decide
from orion_streams.decider.route import Route, route
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import RequestKind
from orion_streams.projections import apply
from orion_streams.protocol.commit_builder import LoggedGrid, chain
from orion_streams.simulation.run_workload import Trial, simulate

MODEL, SIZE_MB = "llama3.2:3b", 2019
NODES = ("orion-master", "orion-spare", "orion-worker")
REPEATS, LOOPS = 30, 500
REQUESTS = 3_000
MANY = 1_000
SIMULATED = 20_000
COOL = ev.NodeSampled(
    node="", boot="boot", sampled_ms=0, temp_mc=50_000, ram_used_mb=2_000, ram_total_mb=8_192,
    cpu_permille=100, inventory_known=True,
)  # fmt: skip
ACCEPTED = ev.RequestAccepted(
    request="", entry_id="1-0", kind=RequestKind.GENERATE, model=MODEL, deadline_ms=600_000,
    body_bytes=400, prompt_tokens=100, num_ctx=4_096,
)  # fmt: skip
ROUTED = ev.RequestRouted(request="", attempt=1, node="", policy_id="bench", position=0, verdicts=())
COMPLETED = ev.RequestCompleted(
    request="", attempt=1, node="", work_id="", tokens=20, prompt_tokens=100, load_ms=0, prefill_ms=500,
    decode_ms=4_000, total_ms=4_500,
)  # fmt: skip
"""Events of a cool node, and of a request of ordinary size."""


def house(names: Sequence[str] = NODES, loaded: bool = True) -> Grid:
    """Make a grid of nodes that can all take a request: cool, with known speeds and one run each, and one
    waiting request. The model is in memory if `loaded`, else only on disk."""
    grid = Grid()
    rules = tuple(NodeRules(name, tiers=(1, 2), slots=4) for name in names)
    apply(grid, ev.Committed(number=1, server_ms=1_000, inputs=0, decided=True, hash=""))
    apply(grid, ev.PolicyChanged(1, "bench", Policy(), rules))
    for n, name in enumerate(names):
        apply(grid, replace(COOL, node=name))
        apply(grid, ev.ModelInstalled(name, MODEL, "digest", SIZE_MB))
        if loaded:
            apply(grid, ev.ModelLoaded(name, MODEL, "digest", SIZE_MB, 4096))
        for key in (f"brain/done-{n}", f"brain/held-{n}"):
            apply(grid, replace(ACCEPTED, request=key))
            apply(grid, replace(ROUTED, request=key, node=name, work_id=f"1 {key}"))
        done = f"brain/done-{n}"
        apply(grid, replace(COMPLETED, request=done, node=name, work_id=f"1 {done}"))
        if not loaded:
            apply(grid, ev.AttemptEnded(f"brain/held-{n}", 1, name, f"1 brain/held-{n}", "cancelled"))
            apply(grid, ev.ModelUnloaded(name, MODEL))
    apply(grid, replace(ACCEPTED, request="brain/waiting"))
    return grid


def route_us() -> Row:
    """Measure one route over three nodes with all verdicts, in µs; take the fastest repeat."""
    grid = house()
    request = grid.open["brain/waiting"]
    decision = route(grid, request)
    assert isinstance(decision, Route) and not any(v.filter for v in decision.verdicts)  # noqa: S101
    return Row("route_us_3_nodes", tidy(fastest_us(lambda: route(grid, request))), "µs")


def route_us_per_node() -> list[Row]:
    """Measure one route over MANY nodes, in µs per node: the model in memory everywhere, and nowhere."""
    names = [f"node-{n:04}" for n in range(MANY)]
    rows = []
    for what, loaded in (("warm", True), ("cold", False)):
        grid = house(names, loaded)
        request = grid.open["brain/waiting"]
        us = fastest_us(lambda: route(grid, request), loops=2)  # noqa: B023 - called at once
        rows.append(Row(f"route_us_per_node_{MANY}_{what}", tidy(us / MANY), "µs"))
    return rows


def simulate_us() -> Row:
    """Measure a simulated request, in µs: its events folded, its decisions made, its machines advanced."""
    began = time.perf_counter()
    simulate(Trial("decode-heavy", "steady", "ours", 1, SIMULATED))
    return Row("simulate_us_per_request", tidy((time.perf_counter() - began) / SIMULATED * 1e6), "µs")


def decide_us() -> Row:
    """Measure one decision that routes one request to one of three nodes, in µs."""
    grid = house()
    return Row("decide_us", tidy(fastest_us(lambda: decide(grid))), "µs")


def fold_events() -> Row:
    """Measure how many events a second a start reads from the log: decode, running hash, fold."""
    rows = list(history(house()))
    best_s = float("inf")
    for _ in range(3):
        state = LoggedGrid(house())
        began = time.perf_counter()
        fold_raw(state, rows)
        best_s = min(best_s, time.perf_counter() - began)
    return Row("fold_events_per_s", tidy(len(rows) / best_s), "events/s")


def history(grid: Grid) -> Iterator[tuple[int, bytes]]:
    """Yield the log of requests that are accepted, routed and completed one after the other."""
    state = LoggedGrid(grid)
    verdicts = route(grid, grid.open["brain/waiting"]).verdicts
    for n in range(REQUESTS):
        key, place = f"brain/{n}", {"node": NODES[1], "work_id": f"2-{n}"}
        made: list[ev.AnyEvent] = [
            replace(ACCEPTED, request=key),
            replace(ROUTED, request=key, position=grid.position, verdicts=verdicts, **place),
            replace(COMPLETED, request=key, **place),
        ]
        head = ev.Committed(
            number=n + 2, server_ms=1_000 + n, inputs=1, decided=True, hash=state.digest.hex()
        )
        for event in (head, *made):
            raw = event_codec.encode(event)
            state.digest = chain(state.digest, raw)
            yield grid.position + n * 4 + len(made), raw


def fastest_us(work: Callable[[], Any], loops: int = LOOPS) -> float:
    """Return µs per call of the fastest repeat: other processes make all others slower."""
    best_s = float("inf")
    gc.collect()
    gc.disable()
    try:
        for _ in range(REPEATS):
            began = time.perf_counter()
            for _ in range(loops):
                work()
            best_s = min(best_s, time.perf_counter() - began)
    finally:
        gc.enable()
    return best_s / loops * 1e6


def rows() -> list[Row]:
    """Run all measurements; this takes a few seconds."""
    return [route_us(), *route_us_per_node(), decide_us(), fold_events(), simulate_us()]
