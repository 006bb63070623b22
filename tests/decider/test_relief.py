"""On a memory backoff idle models go, so that the node comes back by itself."""

from __future__ import annotations

from typing import Any

import pytest

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark
from orion_streams.projections import evolve, fold
from tests.grids import AT_MS, HEAVY, MEMORY, MODEL, POLICY, grid, holding, kinds, node
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


def test_a_busy_model_is_not_unloaded() -> None:
    """A model that a node is running for somebody stays, also if it is the least recently used."""
    answers = decide(full(assignments={"5-0": holding(HEAVY, started=True)}))
    assert answers == (ev.UnloadOrdered("n", MODEL),)


@pytest.mark.parametrize(
    "values",
    [
        {"backed_off": (Mark.HOT,)},
        {"backed_off": ""},
        {"heard_ms": AT_MS - POLICY.stale_ms - 1},
        {"ram_used_mb": 6_800},
    ],
)
def test_only_a_full_node_that_is_heard_unloads(values: dict[str, Any]) -> None:
    """Heat alone empties no memory, a silent node is told nothing, and at the lower mark it is enough."""
    usual: dict[str, Any] = {"backed_off": (Mark.RAM,), "ram_used_mb": 6_801, "resident": MEMORY}
    assert kinds(decide(grid(node("n", **usual)))) == ["model.unload_ordered"]
    assert decide(grid(node("n", **{**usual, **values}))) == ()


def test_an_unload_that_is_not_seen_is_ordered_again() -> None:
    """An order is repeated after `unload_again_ms`, not sooner."""
    for age_ms, expected in ((POLICY.unload_again_ms, ()), (POLICY.unload_again_ms + 1, (HEAVY,))):
        told = full(unload_ordered_ms={HEAVY: AT_MS - age_ms})
        answers = decide(told)
        assert tuple(each.model for each in answers if isinstance(each, ev.UnloadOrdered)) == expected


def test_a_node_that_is_hot_and_full_is_relieved() -> None:
    """Heat does not keep it from letting go."""
    hot = grid(
        node("n", ram_used_mb=7_500, temp_mc=74_000, backed_off=(Mark.HOT, Mark.RAM), resident=MEMORY)
    )
    assert kinds(decide(hot)) == ["model.unload_ordered"]


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
