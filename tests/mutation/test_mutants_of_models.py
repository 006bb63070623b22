"""What is on disk and in memory after one event, whole rows."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Assignment, Grid, Installed, Load, Node, Resident
from orion_streams.projections import evolve
from orion_streams.projections.models import MAX_FOOTPRINTS
from tests.grids import AT_MS, BIG, DISK, HEAVY, MODEL, grid, holding, node, request


def after(event: ev.AnyEvent, row: Node, **values: Any) -> Node:
    """The row of `n` after one event."""
    return evolve(grid(row, **values), event).nodes["n"]


def test_a_model_comes_to_the_disk_and_goes() -> None:
    """The others stay; one that is not there can go without harm."""
    row = node("n", installed=DISK)
    more = after(ev.ModelInstalled("n", BIG, "c", 7_366), row)
    assert more == replace(row, installed={**DISK, BIG: Installed("c", 7_366)})
    assert after(ev.ModelRemoved("n", MODEL), more) == replace(
        row, installed={HEAVY: DISK[HEAVY], BIG: more.installed[BIG]}
    )
    assert after(ev.ModelRemoved("n", BIG), row) == row


HERE = Resident("a", 470, 4_096, num_ctx=4_096, runner="num_thread=2", since_ms=50, pending_mb=477)
LOADED = ev.ModelLoaded("n", MODEL, "a2", 480, 4_096)
TOLD = {MODEL: 10, HEAVY: 20}
TALKS = {MODEL: ("s",), HEAVY: ("t",)}


def test_health_confirms_a_runner() -> None:
    """The same context length: options, since when, sessions and orders stay; nothing is pending now."""
    row = node("n", resident={MODEL: HERE, HEAVY: HERE}, sessions=TALKS, unload_ordered_ms=TOLD)
    confirmed = replace(HERE, digest="a2", size_mb=480, pending_mb=0)
    assert after(LOADED, row) == replace(row, resident={MODEL: confirmed, HEAVY: HERE})


def test_a_runner_without_a_known_length_is_confirmed_by_any() -> None:
    """What our run left in memory has no length until health says one."""
    row = node("n", resident={MODEL: replace(HERE, context_length=0)})
    assert after(LOADED, row).resident[MODEL] == replace(HERE, digest="a2", size_mb=480, pending_mb=0)


def test_another_length_is_another_runner() -> None:
    """Somebody else loaded it anew: options, sessions and orders of the former one are void, since now."""
    row = node(
        "n", resident={MODEL: replace(HERE, context_length=1)}, sessions=TALKS, unload_ordered_ms=TOLD
    )
    assert after(LOADED, row) == replace(
        row,
        resident={MODEL: Resident("a2", 480, 4_096, since_ms=AT_MS)},
        sessions={HEAVY: ("t",)},
        unload_ordered_ms={HEAVY: 20},
    )


def test_another_length_takes_no_options_of_a_run_in_hand() -> None:
    """Only a model that was not there before was brought by what the node holds."""
    holds = {"5-1": holding(num_ctx=4_096, runner="num_thread=2")}
    row = node("n", resident={MODEL: replace(HERE, context_length=1)}, assignments=holds)
    assert after(LOADED, row).resident[MODEL] == Resident("a2", 480, 4_096, since_ms=AT_MS)


@pytest.mark.parametrize(
    ("held", "options"),
    [
        (holding(num_ctx=8_192, runner="num_thread=2"), (8_192, "num_thread=2")),
        (holding(num_ctx=0, runner="num_thread=2"), (0, "")),
        (holding(HEAVY, num_ctx=8_192, runner="num_thread=2"), (0, "")),
    ],
)
def test_a_new_model_has_the_options_of_the_run_that_brought_it(
    held: Assignment, options: tuple[int, str]
) -> None:
    """Those of a run of this model that asked for a length; else nothing is known of them."""
    row = node("n", assignments={"4-0": holding(HEAVY, num_ctx=2_048, runner="x"), "5-1": held})
    found = after(LOADED, row).resident[MODEL]
    assert found == Resident("a2", 480, 4_096, *options, since_ms=AT_MS)


def test_what_a_runner_takes_is_remembered_by_what_it_was_asked_for() -> None:
    """By the length asked for, else by what Ollama says; the latest measurement is the youngest."""
    row = node("n", slots=2, resident={MODEL: replace(HERE, num_ctx=2_048)})
    some = grid(row, footprints={("a2", 2048, 2): 1, ("b", 1, 1): 2})
    assert list(evolve(some, LOADED).footprints.items()) == [(("b", 1, 1), 2), (("a2", 2048, 2), 480)]
    assert evolve(grid(node("n")), LOADED).footprints == {("a2", 4096, 1): 480}


def test_footprints_are_bounded() -> None:
    """As many as the limit are kept; beyond it the oldest goes."""
    full = {(f"x{n}", 1, 1): n for n in range(MAX_FOOTPRINTS)}
    kept = evolve(grid(node("n"), footprints=full), LOADED).footprints
    assert list(kept) == [*list(full)[1:], ("a2", 4096, 1)]
    almost = {(f"x{n}", 1, 1): n for n in range(MAX_FOOTPRINTS - 1)}
    assert list(evolve(grid(node("n"), footprints=almost), LOADED).footprints) == [*almost, ("a2", 4096, 1)]


ORDER = ev.LoadOrdered("n", HEAVY, 8_192, "num_thread=2", load_ms=900, reserve_mb=2_388, work_id="5-1")
ORDERED = Load(
    model=HEAVY, run_ms=900, since_ms=AT_MS, alone=True, reserve_mb=2_388,
    num_ctx=8_192, runner="num_thread=2",
)  # fmt: skip


def test_an_ordered_load_is_held_and_uses_the_model() -> None:
    """It is no request's, it has begun, it reserves its memory; an earlier failure to load is forgotten."""
    row = node("n", used_ms={MODEL: 5}, load_failed_ms={HEAVY: 6, MODEL: 7})
    assert after(ORDER, row) == replace(
        row, assignments={"5-1": ORDERED}, used_ms={MODEL: 5, HEAVY: AT_MS}, load_failed_ms={MODEL: 7}
    )
    undecided = after(replace(ORDER, work_id=""), row)
    assert undecided.assignments == {f"undecided load {HEAVY}": ORDERED}


def test_an_ordered_load_beside_other_work_is_not_alone() -> None:
    """Neither it nor what runs already."""
    row = after(ORDER, node("n", assignments={"4-0": holding(alone=True, started=True)}))
    assert row.assignments == {
        "4-0": holding(alone=False, started=True),
        "5-1": replace(ORDERED, alone=False),
    }


def test_an_ordered_load_that_fails_is_noted() -> None:
    """Not to be tried again for a while; the slot is free and nothing is in memory."""
    row = node("n", assignments={"5-1": ORDERED}, load_failed_ms={MODEL: 7})
    failed = after(ev.LoadEnded("n", HEAVY, "5-1", ok=False), row)
    assert failed == replace(row, assignments={}, load_failed_ms={MODEL: 7, HEAVY: AT_MS})


def test_an_ordered_load_that_ends_well_leaves_its_model() -> None:
    """With its options, pending as much as was reserved; an order to go is void."""
    row = node(
        "n", assignments={"5-1": ORDERED}, unload_ordered_ms={HEAVY: 1, MODEL: 2}, load_failed_ms={MODEL: 7}
    )
    ended = ev.LoadEnded("n", HEAVY, "5-1", ok=True, load_ms=900)
    came = Resident("b", 2_019, 0, 8_192, "num_thread=2", AT_MS, 2_388)
    assert after(ended, row) == replace(
        row, assignments={}, resident={HEAVY: came}, unload_ordered_ms={MODEL: 2}
    )
    assert after(replace(ended, work_id="6-0"), row) == row
    assert after(replace(ended, work_id="6-0", ok=False), row) == row


def test_orders_to_go_are_noted_by_model() -> None:
    """The latest order counts; others stay."""
    row = node("n", unload_ordered_ms={MODEL: 1, HEAVY: 2})
    assert after(ev.UnloadOrdered("n", HEAVY), row) == replace(
        row, unload_ordered_ms={MODEL: 1, HEAVY: AT_MS}
    )


def test_a_model_that_left_takes_its_orders_and_sessions_along() -> None:
    """Those of the others stay; one that is not in memory changes nothing."""
    row = node("n", resident={MODEL: HERE, HEAVY: HERE}, sessions=TALKS, unload_ordered_ms=TOLD)
    gone = after(ev.ModelUnloaded("n", MODEL), row)
    assert gone == replace(
        row, resident={HEAVY: HERE}, sessions={HEAVY: ("t",)}, unload_ordered_ms={HEAVY: 20}
    )
    only = replace(row, resident={HEAVY: HERE})
    assert after(ev.ModelUnloaded("n", MODEL), only) == only


ANSWER = ev.RequestCompleted("brain/a", 1, "n", "5-1", 9, 9, 0, 9, 9, 9)


def answered(row: Node, *, session: str = "", **values: Any) -> Node:
    """The row after an answer by this model under this session."""
    asked = request(node=row.rules.name, work_id="5-1", session=session, **values)
    return after(ANSWER, row, open_requests={"brain/a": asked})


def test_an_answer_shows_its_runner() -> None:
    """In memory from now on, with the run's options, pending what the run reserved."""
    run = holding(num_ctx=4_096, runner="num_thread=2", reserve_mb=477)
    row = node("n", assignments={"5-1": run}, unload_ordered_ms=TOLD)
    here = Resident("a", 253, 0, 4_096, "num_thread=2", AT_MS, 477)
    assert answered(row) == replace(
        row, assignments={}, resident={MODEL: here}, unload_ordered_ms={HEAVY: 20}
    )


def test_an_answer_without_a_reserve_is_pending_its_weights() -> None:
    """A run that was thought warm found the model gone and loaded it."""
    row = node("n", assignments={"5-1": holding()})
    assert answered(row).resident == {MODEL: Resident("a", 253, since_ms=AT_MS, pending_mb=253)}


def test_an_answer_of_a_resident_model_changes_its_options_only() -> None:
    """Size, since when and what is pending are those that were known."""
    row = node(
        "n", resident={MODEL: HERE, HEAVY: HERE}, assignments={"5-1": holding(num_ctx=8_192, runner="y")}
    )
    expected = {MODEL: replace(HERE, num_ctx=8_192, runner="y"), HEAVY: HERE}
    assert answered(row) == replace(row, assignments={}, resident=expected)


def test_an_answer_by_an_unchanged_runner_takes_an_order_to_go_back() -> None:
    """It works, so it has not gone; without an order nothing changes."""
    run = holding(num_ctx=4_096, runner="num_thread=2")
    row = node("n", resident={MODEL: HERE}, assignments={"5-1": run}, unload_ordered_ms=TOLD)
    assert answered(row) == replace(row, assignments={}, unload_ordered_ms={HEAVY: 20})
    calm = replace(row, unload_ordered_ms={HEAVY: 20})
    assert answered(calm) == replace(calm, assignments={})


def test_an_answer_that_nobody_holds_or_knows_shows_nothing() -> None:
    """A run that the node does not hold, or a model that is not on its disk."""
    row = node("n", assignments={"6-0": holding()})
    assert answered(row) == row
    strange = node("n", assignments={"5-1": holding("strange:1b")})
    assert answered(strange, model="strange:1b") == replace(strange, assignments={})
    assert after(ANSWER, row) == row


@pytest.mark.parametrize(
    ("slots", "session", "before", "expected"),
    [
        (1, "s", {}, {MODEL: ("s",)}),
        (1, "s", {MODEL: ("t",), HEAVY: ("u",)}, {MODEL: ("s",), HEAVY: ("u",)}),
        (2, "s", {MODEL: ("t", "u")}, {MODEL: ("s", "t")}),
        (3, "s", {MODEL: ("t", "s", "u")}, {MODEL: ("s", "t", "u")}),
        (2, "", {MODEL: ("t", "u")}, {MODEL: ("", "t")}),
        (2, "", {HEAVY: ("t",)}, {HEAVY: ("t",)}),
    ],
)
def test_slots_hold_the_latest_sessions(
    slots: int, session: str, before: dict[str, tuple[str, ...]], expected: dict[str, tuple[str, ...]]
) -> None:
    """The latest first, each once, as many as there are slots; one without a session takes a place too."""
    row = node("n", slots=slots, resident={MODEL: HERE}, sessions=before)
    assert answered(row, session=session).sessions == expected


def test_a_completion_of_a_request_that_is_closed_only_frees_the_slot() -> None:
    """Nothing is learned from a resend of an answer."""
    row = node("n", assignments={"5-1": holding()}, sessions={MODEL: ("t",)})
    some: Grid = grid(row, open_requests={})
    assert evolve(some, ANSWER).nodes["n"] == replace(row, assignments={})
