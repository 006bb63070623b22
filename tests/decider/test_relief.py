"""On a memory backoff idle models go, so that the node comes back by itself."""

from __future__ import annotations

from typing import Any

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark
from orion_streams.projections import evolve, fold
from tests.grids import AT_MS, HEAVY, MEMORY, MODEL, POLICY, grid, node
from tests.properties.world import WORKER, World


def full(**values: Any) -> Grid:
    """A node that backed off as its memory is full, with two models in it; gemma was used last."""
    used = {MODEL: AT_MS - 1_000, HEAVY: AT_MS - 9_000}
    return grid(
        node("n", ram_used_mb=7_500, backed_off=(Mark.RAM,), resident=MEMORY, used_ms=used, **values)
    )


def test_a_full_node_lets_go_of_the_least_recently_used_model() -> None:
    """On a memory backoff idle models are unloaded one at a time, the one unused for longest first."""
    answers = decide(full())
    assert answers == (ev.UnloadOrdered("n", HEAVY),)
    told = fold(full(), answers)
    assert decide(told) == ()
    lighter = evolve(told, ev.ModelUnloaded("n", HEAVY))
    assert decide(lighter) == (ev.UnloadOrdered("n", MODEL),)


def test_a_full_node_comes_back_by_itself() -> None:
    """End to end: something else takes the memory, the idle models go one by one, the node is back."""
    world = World()
    machine = world.machines[WORKER]
    world.beat()
    world.settle()
    for n, model in enumerate((MODEL, HEAVY)):
        world.ask(f"q{n}", model, tier=2)
        world.settle()
        world.work_all()
    assert sorted(machine.resident) == [MODEL, HEAVY]
    machine.other_mb = 6_000
    world.beat()
    world.settle()
    assert world.node(WORKER).backed_off == (Mark.RAM,)
    world.ask("next", MODEL, tier=2)
    world.settle()
    for _ in range(POLICY.return_samples + 3):
        world.work_all()
    assert world.node(WORKER).backed_off == ()
    orders = [
        each.model for each in world.log if isinstance(each, ev.UnloadOrdered) and each.reason == "relief"
    ]
    assert orders == [MODEL, HEAVY]
