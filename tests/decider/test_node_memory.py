"""The memory of a node: what a runner takes, what is taken or promised, and what goes for a load."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.decider.memory import Room, capacity_mb, committed_mb, footprint_mb, limit_mb, room
from orion_streams.model import events as ev
from orion_streams.model.learned import footprint_key
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Grid, Node, Resident
from orion_streams.projections import fold
from tests.grids import AT_MS, BIG, HEAVY, LIBRARY, MODEL, POLICY, TWIN, grid, holding, loading, node
from tests.properties import strategies as make

HEAVY_HERE = Resident("b", 2_388, 4_096, 4_096)
MODEL_HERE = Resident("a", 477, 4_096, 4_096)


def taken(row: Node, **values: Any) -> int:
    """MB that are used or promised on it."""
    return committed_mb(grid(row, **values), row)


def space(
    row: Node, model: str = MODEL, num_ctx: int = 4_096, needed: tuple[str, ...] = (), **values: Any
) -> Room:
    """What a load would find."""
    return room(grid(row, **values), row, model, num_ctx, needed)


@pytest.mark.parametrize(
    ("model", "num_ctx", "slots", "expected_mb"),
    [
        (MODEL, 4_096, 1, 253 + 20 + 204),
        (MODEL, 4_096, 3, 253 + 62 + 204),
        (HEAVY, 4_096, 1, 2_019 + 165 + 204),
        (HEAVY, 8_192, 2, 2_019 + 661 + 204),
    ],
)
def test_a_runner_takes_weights_context_and_itself(
    model: str, num_ctx: int, slots: int, expected_mb: int
) -> None:
    """Context memory grows with its length and with the slots that each have one."""
    row = node("n", slots=slots)
    assert footprint_mb(grid(row), row, LIBRARY[model], num_ctx) == expected_mb


def test_what_a_runner_was_seen_to_take_counts_more_than_an_estimate() -> None:
    """Once a runner stood in memory its size is known, for that digest, context and number of slots."""
    loaded = fold(grid(node("n")), [ev.ModelLoaded("n", MODEL, "a", 999, 4_096)])
    assert loaded.footprints == {footprint_key("a", 4_096, 1): 999}
    for slots, num_ctx, expected_mb in ((1, 4_096, 999), (1, 8_192, 498), (2, 4_096, 498)):
        row = node("n", slots=slots)
        assert footprint_mb(loaded, row, LIBRARY[TWIN], num_ctx) == expected_mb


def test_the_limit_keeps_a_margin_below_the_mark() -> None:
    """88 % of the memory may be promised; of an empty node, so much less as the system takes."""
    row = node("n", ram_total_mb=7_999)
    assert limit_mb(row, POLICY) == 7_039
    assert capacity_mb(row, POLICY) == 6_539


@pytest.mark.parametrize(
    ("values", "expected_mb"),
    [
        ({}, 2_000),
        ({"resident": {HEAVY: HEAVY_HERE}}, 2_888),
        ({"resident": {HEAVY: HEAVY_HERE}, "ram_used_mb": 5_000}, 5_000),
        ({"resident": {HEAVY: Resident("b", 2_019, pending_mb=2_388)}}, 4_388),
        ({"assignments": {"5-0": holding(reserve_mb=477)}}, 2_477),
        ({"assignments": {"5-0": loading(HEAVY, reserve_mb=2_388)}}, 4_388),
        ({"assignments": {"5-0": holding(reserve_mb=477), "6-0": loading(HEAVY, reserve_mb=2_388)}}, 4_865),
        (
            {
                "resident": {MODEL: MODEL_HERE},
                "assignments": {"5-0": holding(reserve_mb=477, num_ctx=4_096)},
            },
            2_000,
        ),
        ({"resident": {HEAVY: HEAVY_HERE}, "unload_ordered_ms": {HEAVY: AT_MS - 30_000}}, 500),
        ({"resident": {HEAVY: HEAVY_HERE}, "unload_ordered_ms": {HEAVY: AT_MS - 30_001}}, 2_888),
        (
            {"ram_used_mb": 5_000, "resident": {HEAVY: HEAVY_HERE}, "unload_ordered_ms": {HEAVY: AT_MS}},
            2_612,
        ),
        (
            {
                "ram_used_mb": 5_000,
                "resident": {HEAVY: Resident("b", 2_019, pending_mb=2_388)},
                "unload_ordered_ms": {HEAVY: AT_MS},
            },
            5_000,
        ),
    ],
)
def test_what_is_taken(values: dict[str, Any], expected_mb: int) -> None:
    """The larger of what is measured and what the models say, what is promised, without what goes."""
    assert taken(node("n", **values)) == expected_mb


def test_a_runner_that_is_loaded_anew_counts_as_what_it_will_be() -> None:
    """From the decision on, the larger context is taken, not the runner that stands there still."""
    row = node(
        "n",
        ram_used_mb=500,
        resident={MODEL: MODEL_HERE},
        assignments={"5-0": holding(reserve_mb=900, num_ctx=8_192)},
    )
    assert taken(row) == 500 - 477 + 477 + 900
    gone = node(
        "n",
        ram_used_mb=500,
        resident={MODEL: MODEL_HERE},
        unload_ordered_ms={MODEL: AT_MS},
        assignments={"5-0": holding(reserve_mb=900, num_ctx=4_096)},
    )
    assert taken(gone) == taken(row)


def test_room_that_is_there_evicts_nothing() -> None:
    """What fits beside the rest moves nobody, to the last MB."""
    for used_mb, short_mb in ((7_040 - 477, 0), (7_040 - 476, 1)):
        found = space(node("n", ram_used_mb=used_mb))
        assert (found.need_mb, found.evicts, found.short_mb) == (477, (), short_mb)


def full(**values: Any) -> Node:
    """Three models in memory and no room for a fourth; used in the order of their names, a first."""
    names = ("a:1b", "b:1b", "c:1b")
    usual: dict[str, Any] = {
        "ram_total_mb": 4_000,
        "resident": {name: Resident(name, 1_000) for name in names},
        "used_ms": {name: AT_MS - 90_000 + place for place, name in enumerate(names)},
    }
    return node("n", **{**usual, **values})


def test_the_least_recently_used_goes_first() -> None:
    """Among idle models the one that was not asked for the longest, and no more than needed."""
    assert space(full()).evicts == ("a:1b",)
    assert space(full(used_ms={"a:1b": AT_MS})).evicts == ("b:1b",)
    assert space(full(), num_ctx=300_000).evicts == ("a:1b", "b:1b")


@pytest.mark.parametrize(
    ("values", "needed", "expected"),
    [
        ({"assignments": {"5-0": holding("a:1b")}}, (), Room(need_mb=477, evicts=("b:1b",))),
        ({"unload_ordered_ms": {"a:1b": AT_MS}}, (), Room(need_mb=477)),
        ({}, ("a:1b",), Room(need_mb=477, evicts=("b:1b",))),
        ({}, ("a:1b", "b:1b", "c:1b"), Room(need_mb=477, evicts=("a:1b",))),
        (
            {"assignments": {f"{n}-0": holding(f"{n}:1b") for n in "abc"}},
            (),
            Room(need_mb=477, evicts=("a:1b",), busy=True),
        ),
    ],
)
def test_who_is_spared(values: dict[str, Any], needed: tuple[str, ...], expected: Room) -> None:
    """Busy models, those that others wait for and those that go anyway, as long as there are others."""
    assert space(full(**values), needed=needed) == expected


@pytest.mark.parametrize(
    ("ages_ms", "expected"),
    [
        ((0, 40_000, 40_000), Room(need_mb=477, evicts=("b:1b",))),
        ((0, 10_000, 20_000), Room(need_mb=477, evicts=("a:1b",), wait_ms=30_000)),
        ((29_999, 10_000, 20_000), Room(need_mb=477, evicts=("a:1b",), wait_ms=1)),
    ],
)
def test_young_models_go_last_and_later(ages_ms: tuple[int, int, int], expected: Room) -> None:
    """One that has been there for min_stay_ms goes before one that has not; that one must be waited for."""
    rows = {
        f"{name}:1b": Resident(name, 1_000, since_ms=AT_MS - age_ms)
        for name, age_ms in zip("abc", ages_ms, strict=True)
    }
    assert space(full(resident=rows)) == expected


def test_pinned_models_are_no_room() -> None:
    """With all of them pinned here, so much is missing."""
    pins = {f"{name}:1b": ModelRules(resident_on=("n",)) for name in "abc"}
    assert space(full(), models=pins) == Room(need_mb=477, short_mb=3_500 + 477 - 3_520, crowd=1)
    elsewhere = {f"{name}:1b": ModelRules(resident_on=("m",)) for name in "abc"}
    assert space(full(), models=elsewhere).evicts == ("a:1b",)


def test_another_runner_of_the_model_makes_room_itself() -> None:
    """Ollama lets the old runner end before it loads the new one: its memory is free by then."""
    there = node("n", ram_total_mb=3_500, resident={HEAVY: HEAVY_HERE})
    assert space(there, HEAVY, 8_192) == Room(need_mb=2_019 + 330 + 204)
    works = node("n", ram_total_mb=3_500, resident={HEAVY: HEAVY_HERE}, assignments={"5-0": holding(HEAVY)})
    assert space(works, HEAVY, 8_192) == Room(need_mb=2_019 + 330 + 204, busy=True)


@make.MANY
@given(
    st.lists(st.tuples(st.integers(1, 3_000), st.integers(0, 90_000)), max_size=5),
    st.integers(0, 8_000),
    st.sampled_from((MODEL, HEAVY, BIG)),
)
def test_what_goes_is_enough_and_not_too_much(
    sizes: list[tuple[int, int]], used_mb: int, model: str
) -> None:
    """After the evictions the load fits, and without any one of them it would not."""
    rows = {f"x{n}:1b": Resident(f"x{n}", size_mb) for n, (size_mb, _) in enumerate(sizes)}
    used = {f"x{n}:1b": AT_MS - age_ms for n, (_, age_ms) in enumerate(sizes)}
    row = node("n", ram_used_mb=used_mb, resident=rows, used_ms=used, installed=LIBRARY)
    found, free_mb = (
        space(row, model),
        7_040 - max(used_mb, 500 + sum(each.size_mb for each in rows.values())),
    )
    going = [rows[name].size_mb for name in found.evicts]
    if found.short_mb or found.crowd:
        assert found.crowd == 0
        assert free_mb + sum(size_mb for size_mb, _ in sizes) + found.short_mb == found.need_mb
    else:
        assert free_mb + sum(going) >= found.need_mb
        crowd = len(rows) + 1 - row.rules.max_models
        assert len(going) >= crowd
        assert all(free_mb + sum(going) - each < found.need_mb or len(going) == crowd for each in going)


def test_memory_of_a_load_moves_from_promise_to_fact() -> None:
    """Promised while it is ordered, pending once it has ended, measured once health has shown it."""
    row = node("n", ram_used_mb=3_000)
    ordered = ev.LoadOrdered("n", MODEL, 4_096, "", load_ms=900, reserve_mb=477, work_id="5-0")
    steps: list[ev.AnyEvent] = [
        ordered,
        ev.LoadEnded("n", MODEL, "5-0", ok=True, load_ms=900, alone=True),
        ev.ModelLoaded("n", MODEL, "a", 480, 4_096),
    ]
    some: Grid = grid(row)
    seen = []
    for step in steps:
        some = fold(some, [step])
        seen.append(committed_mb(some, some.nodes["n"]))
    assert seen == [3_477, 3_477, 3_000]
