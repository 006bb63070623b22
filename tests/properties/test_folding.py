"""Laws 8 and 9: a history may be cut anywhere, and what comes twice or late changes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.route import route
from orion_streams.model import events as ev
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid
from orion_streams.projections import evolve, fold
from tests.grids import AT_MS, HEAVY, MODEL, fails, grid, loading, node, request, sample, verdict
from tests.properties import histories
from tests.properties import strategies as make
from tests.properties.world import MASTER, WORKER, World


@make.MANY
@given(histories.HISTORIES, histories.TAILS)
def test_a_fold_may_be_cut_anywhere(before: list[ev.AnyEvent], after: list[ev.AnyEvent]) -> None:
    """fold(a + b) is fold(b) from fold(a), byte for byte, also through a snapshot."""
    whole = encode_grid(fold(Grid(), before + after))
    half = fold(Grid(), before)
    snapshot = encode_grid(half)
    assert encode_grid(fold(half, after)) == whole
    assert encode_grid(half) == snapshot
    assert encode_grid(fold(decode_grid(snapshot), after)) == whole


def settled(some: Grid) -> bytes:
    """All of a grid that a repeated event must not change: its position counts it."""
    return encode_grid(replace(some, position=0))


def may_come_twice(some: Grid, event: ev.AnyEvent) -> None:
    """Law 9: the second time an event changes nothing."""
    once = evolve(some, event)
    assert settled(evolve(once, event)) == settled(once)


@make.MANY
@given(histories.HISTORIES, histories.IDEMPOTENT)
def test_an_event_twice_is_an_event_once(before: list[ev.AnyEvent], event: ev.AnyEvent) -> None:
    """Ends, results, what Ollama has and safety: the same event again changes nothing."""
    may_come_twice(fold(Grid(), before), event)


def test_an_event_that_counts_breaks_the_law() -> None:
    """Negative control: a sample is counted each time, so it is not among those that may come twice."""
    assert fails(may_come_twice, grid(node("n")), sample("n"))


@make.MANY
@given(make.grids(), st.sampled_from(make.NAMES), st.integers(5_001, 100_000))
def test_an_old_sample_makes_no_node_fresh(some: Grid, name: str, age_ms: int) -> None:
    """A health entry that is older than stale_ms when it comes lets nothing be routed to its node."""
    after = evolve(some, sample(name, age_ms=age_ms, temp_mc=20_000))
    if name in after.nodes:
        decision = route(after, request())
        assert verdict(decision, name).filter in ("role", "stale", "drained")


def a_day() -> World:
    """A world in which something of everything has happened."""
    world = World()
    world.beat()
    world.settle()
    for n, model in enumerate((MODEL, HEAVY, MODEL)):
        world.ask(f"q{n}", model, session="s")
    world.settle()
    for _ in range(4):
        world.work_all()
    failing, cancelled = world.ask("failing", MODEL), world.ask("cancelled", HEAVY)
    world.settle()
    first = world.request(failing).node
    world.cancel(cancelled)
    world.settle()
    for name in (MASTER, WORKER):
        world.read_work(name)
    for work_id, head in list(world.machines[first].in_hand.items()):
        if head.request == failing:
            world.end(first, work_id, "failed", code="stream_cut", blame="node")
    world.settle()
    world.work_all()
    world.ask("last", MODEL)
    world.settle()
    return world


def test_results_that_come_again_change_nothing() -> None:
    """All results of a day once more, in any order: no event, no answer, not one row is another."""
    world = a_day()
    before = world.grid.copy()
    for machine in world.machines.values():
        said = list(machine.said)
        for head in (*reversed(said), *said):
            world.say(machine.name, head)
    assert world.settle(0) == []
    assert len([head for machine in world.machines.values() for head in machine.said]) > 10
    for table in ("nodes", "open", "closed", "speeds", "answers", "footprints", "demand"):
        assert getattr(world.grid, table) == getattr(before, table)
    assert all(len(kinds) == 1 for kinds in world.replies.values())


def test_a_late_result_only_frees_the_slot() -> None:
    """A node that was silent answers after all: the request's own attempt is elsewhere, and stays."""
    world = World()
    world.beat()
    world.settle()
    key = world.ask("q", HEAVY)
    world.settle()
    first = world.request(key).node
    world.read_work(first)
    [work_id] = world.machines[first].in_hand
    world.machines[first].alive = False
    for _ in range(4):
        world.beat()
        world.settle(2_000)
    second = world.request(key).node
    assert second not in ("", first)
    assert work_id in world.node(first).assignments
    world.end(first, work_id)
    world.settle()
    assert world.node(first).assignments == {}
    assert world.request(key).node == second
    assert [type(event).__name__ for event in world.log if getattr(event, "work_id", "") == work_id] == [
        "RequestRouted",
        "AttemptAbandoned",
        "AttemptEnded",
    ]


def test_a_load_that_ends_twice_ends_once() -> None:
    """The second end of an ordered load teaches nothing and frees nothing."""
    held = loading(MODEL, alone=True, since_ms=AT_MS)
    row = grid(node("n", assignments={"5-0": held}))
    ended = ev.LoadEnded("n", MODEL, "5-0", ok=True, load_ms=900, alone=True)
    once = evolve(row, ended)
    assert once.nodes["n"].assignments == {}
    assert once.speeds["n", MODEL].loads == (900,)
    assert settled(evolve(once, ended)) == settled(once)
