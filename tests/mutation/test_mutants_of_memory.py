"""What goes for a load, to the last MB and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.memory import Evictable, Room, candidates, committed_mb, has_runner, room
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Node, Resident
from tests.grids import AT_MS, HEAVY, LIBRARY, MODEL, POLICY, grid, holding, loading, node

FREE_MB = 7_040 - 477
"""So much may be used of 8,000 MB when the small model is still to fit."""


def space(row: Node) -> Room:
    """What a load of the small model finds."""
    return room(grid(row), row, MODEL, 4_096)


def house(short_mb: int, *sizes_mb: int) -> Node:
    """A node on which so much is missing, with idle models, the one that was used last at the end."""
    names = "abcd"[: len(sizes_mb)]
    rows = {f"{name}:1b": Resident(name, size_mb) for name, size_mb in zip(names, sizes_mb, strict=True)}
    used = {f"{name}:1b": place for place, name in enumerate(names, 1)}
    return node("n", ram_used_mb=FREE_MB + short_mb, resident=rows, used_ms=used)


@pytest.mark.parametrize(
    ("short_mb", "sizes_mb", "expected"),
    [
        (0, (100,), Room(need_mb=477)),
        (1, (100,), Room(need_mb=477, evicts=("a:1b",))),
        (100, (100, 1_000), Room(need_mb=477, evicts=("a:1b",))),
        (101, (100, 1_000), Room(need_mb=477, evicts=("b:1b",))),
        (200, (100, 200), Room(need_mb=477, evicts=("b:1b",))),
        (201, (100, 200), Room(need_mb=477, evicts=("a:1b", "b:1b"))),
        (100, (0, 100), Room(need_mb=477, evicts=("b:1b",))),
        (250, (100, 100, 300), Room(need_mb=477, evicts=("c:1b",))),
        (350, (100, 100, 300), Room(need_mb=477, evicts=("b:1b", "c:1b"))),
        (450, (300, 100, 300), Room(need_mb=477, evicts=("a:1b", "c:1b"))),
        (500, (100, 100, 300), Room(need_mb=477, evicts=("a:1b", "b:1b", "c:1b"))),
        (501, (100, 100, 300), Room(need_mb=477, short_mb=1)),
    ],
)
def test_as_little_goes_as_is_enough(short_mb: int, sizes_mb: tuple[int, ...], expected: Room) -> None:
    """In the order of their last use; then whoever need not have gone stays, the longest unused first."""
    assert space(house(short_mb, *sizes_mb)) == expected


def test_several_pending_models_add_up() -> None:
    """What no sample shows yet is promised, model by model and load by load."""
    rows = {"a:1b": Resident("a", 90, pending_mb=100), "b:1b": Resident("b", 190, pending_mb=200)}
    held = {"5-0": holding("c:1b", reserve_mb=40), "6-0": loading("d:1b", reserve_mb=5)}
    row = node("n", resident=rows, assignments=held)
    assert committed_mb(grid(row), row) == 2_345


SEEN: list[tuple[Resident | None, dict[str, Any], bool]] = [
    (None, {}, False),
    (Resident("a", 470, 4_096, 4_096, "x"), {"num_ctx": 4_096, "runner": "x"}, True),
    (Resident("a", 470, 4_096, 4_096, "x"), {"num_ctx": 4_096}, False),
    (Resident("a", 470, 4_096, 4_096, "x"), {"num_ctx": 8_192, "runner": "x"}, False),
    (Resident("a", 470, 8_192, 4_096, "x"), {"num_ctx": 8_192, "runner": "x"}, False),
    (Resident("a", 470, 4_096, 4_096, "x"), {"num_ctx": 0}, True),
    (Resident("a", 470, 8_192), {"num_ctx": 8_192, "runner": "x"}, True),
    (Resident("a", 470, 0), {"num_ctx": 8_192, "runner": "x"}, True),
    (Resident("a", 470, 1), {"num_ctx": 8_192, "runner": "x"}, False),
    (Resident("a", 470, 4_096), {"num_ctx": 0, "runner": "x"}, False),
]


@pytest.mark.parametrize(("here", "asked", "seen"), SEEN)
def test_a_runner_is_seen_by_its_options(here: Resident | None, asked: dict[str, Any], seen: bool) -> None:
    """As asked for, or as far as is known; what was told to go is not there, another model says nothing."""
    other = {HEAVY: Resident("b", 2_019)}
    row = node("n", resident={**other, MODEL: here} if here else other)
    held = holding(**asked)
    assert has_runner(grid(row), row, held) is seen
    going = replace(row, unload_ordered_ms={MODEL: AT_MS})
    assert has_runner(grid(going), going, held) is False
    stays = replace(row, unload_ordered_ms={HEAVY: AT_MS})
    assert has_runner(grid(stays), stays, held) is seen


def test_a_model_on_its_way_may_go_when_its_work_has_ended() -> None:
    """It counts as all that was reserved for it, and is to stay for a while."""
    held = {f"{n}-0": holding(HEAVY, reserve_mb=reserve_mb) for n, reserve_mb in enumerate((300, 500))}
    row = node("n", assignments=held)
    expected = Evictable(True, True, False, 0, HEAVY, 800, POLICY.min_stay_ms)
    assert candidates(grid(row), row, MODEL, ()) == [expected]
    row = node("n", ram_used_mb=FREE_MB - 299, assignments={"5-0": loading(HEAVY, reserve_mb=300)})
    assert space(row) == Room(need_mb=477, evicts=(HEAVY,), wait_ms=POLICY.min_stay_ms, busy=True)


def test_a_model_that_is_loaded_anew_goes_as_what_it_will_be() -> None:
    """The larger runner that was reserved for, when its work has ended; its row stands there still."""
    rows = {HEAVY: Resident("b", 2_388, 4_096, 4_096)}
    row = node("n", resident=rows, assignments={"5-0": holding(HEAVY, reserve_mb=2_553, num_ctx=8_192)})
    assert candidates(grid(row), row, MODEL, ()) == [Evictable(True, False, False, 0, HEAVY, 2_553, 0)]


def test_a_runner_that_was_told_to_go_is_still_to_be_loaded() -> None:
    """The memory set aside for another model counts until its runner is there, and stays."""
    row = node(
        "n",
        installed=LIBRARY,
        resident={MODEL: Resident("a", 470, 2_048), HEAVY: Resident("b", 2_019)},
        assignments={"1-0": holding(HEAVY, reserve_mb=2_100)},
        unload_ordered_ms={HEAVY: AT_MS},
    )
    found = room(grid(row), row, MODEL, 4_096)
    assert (found.need_mb, found.evicts, found.short_mb) == (477, (), 0)


def test_a_run_that_reserved_nothing_changes_no_sum() -> None:
    """Though its runner is not the one that stands there: nothing is promised, and nothing goes."""
    rows = {HEAVY: Resident("b", 2_388, 4_096, 4_096)}
    row = node("n", resident=rows, assignments={"5-0": holding(HEAVY, num_ctx=8_192)})
    assert committed_mb(grid(row), row) == 500 + 2_388


def test_a_runner_that_has_come_makes_room_for_itself() -> None:
    """Though its run still holds what was set aside: Ollama lets it end, then loads it anew."""
    rows = {MODEL: Resident("a", 470, 4_096, 4_096)}
    held = {"5-0": holding(reserve_mb=477, num_ctx=4_096)}
    row = node("n", ram_used_mb=FREE_MB + 470, resident=rows, assignments=held)
    assert space(row) == Room(need_mb=477, busy=True)


def test_a_run_that_reserved_nothing_is_no_room() -> None:
    """Its model is in memory already, or is not known to be."""
    row = node("n", ram_used_mb=FREE_MB + 1, assignments={"5-0": holding(HEAVY)})
    assert space(row) == Room(need_mb=477, short_mb=1)


def test_the_order_of_going() -> None:
    """Idle before busy, of age before young, wanted by nobody before needed, the least recently used,
    then by name; neither the model itself nor one that is pinned here or was told to go."""
    rows = {
        MODEL: Resident("a", 470),
        "pinned:1b": Resident("p", 1),
        "going:1b": Resident("g", 2, pending_mb=3),
        "busy:1b": Resident("b", 4),
        "young:1b": Resident("y", 5, since_ms=AT_MS - POLICY.min_stay_ms + 1),
        "aged:1b": Resident("o", 6, since_ms=AT_MS - POLICY.min_stay_ms),
        "needed:1b": Resident("n", 7, pending_mb=8),
        "used:1b": Resident("u", 9),
    }
    row = node(
        "n", resident=rows,
        assignments={"5-0": holding("busy:1b"), "6-0": holding("going:1b", reserve_mb=9)},
        unload_ordered_ms={"going:1b": AT_MS}, used_ms={"used:1b": 1, "needed:1b": 2},
    )  # fmt: skip
    some = grid(row, models={"pinned:1b": ModelRules(resident_on=("m", "n"))})
    assert candidates(some, row, MODEL, ("needed:1b",)) == [
        Evictable(False, False, False, 0, "aged:1b", 6, 0),
        Evictable(False, False, False, 1, "used:1b", 9, 0),
        Evictable(False, False, True, 2, "needed:1b", 8, 0),
        Evictable(False, True, False, 0, "young:1b", 5, 1),
        Evictable(True, False, False, 0, "busy:1b", 4, 0),
    ]
