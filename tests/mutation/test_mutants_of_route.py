"""Verdicts, term by term, and the small functions that they are made of, at their boundaries."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.route import Ahead, Route, Wait, Waiting, failed_here, route
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Assignment, Demand, Failure, Node, Resident, Speed
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Blame, WaitKind
from tests.grids import (
    AT_MS,
    BIG,
    HEAVY,
    LIBRARY,
    MODEL,
    POLICY,
    TWIN,
    grid,
    holding,
    loading,
    node,
    request,
    verdict,
)
from tests.mutation.verdicts import COLD, HERE, WARM, but, judged, warm


def test_an_unmeasured_node_is_judged_by_the_size_of_the_weights() -> None:
    """Load, prompt and answer by the policy's µs per MB; in memory there is no load."""
    assert judged(node("n")) == COLD
    assert judged(warm()) == WARM


def test_a_nodes_own_rules_count_more_than_the_policys() -> None:
    """µs per MB of this machine's disk and processor."""
    rules = NodeRules("n", load_us_per_mb=10_003, prefill_us_per_mb=33, decode_us_per_mb=77)
    row = replace(node("n"), rules=rules)
    assert judged(row) == but(COLD, -1_771 + 86 - 1_164, load_ms=2_530, prefill_ms=166, decode_ms=3_896)


@pytest.mark.parametrize(
    ("speed", "load_ms", "prefill_ms", "decode_ms"),
    [
        (Speed(1_000, 2_099, 30_003), 1_000, 41, 6_000),
        (Speed(0, 2_099, 0), 4_301, 41, 5_060),
        (Speed(0, 0, 30_003), 4_301, 80, 6_000),
        (Speed(1_000, 0, 0), 1_000, 80, 5_060),
    ],
)
def test_what_was_measured_counts(speed: Speed, load_ms: int, prefill_ms: int, decode_ms: int) -> None:
    """Each speed on its own: what is not known yet stays an estimate."""
    found = judged(node("n"), speeds={("n", MODEL): speed, ("n", HEAVY): Speed(1, 1, 1)})
    terms = {"load_ms": load_ms, "prefill_ms": prefill_ms, "decode_ms": decode_ms}
    assert found == replace(COLD, cost_ms=sum(terms.values()), **terms)
    assert {type(getattr(found, each)) for each in (*terms, "cost_ms")} == {int}


@pytest.mark.parametrize(
    ("forecast_mc", "heat_ms", "free_slots"),
    [
        (70_000, 0, 1),
        (70_010, 5, 1),
        (72_500, 1_285, 1),
        (75_000, 2_570, 1),
        (75_001, 2_570, 0),
        (99_000, 2_570, 0),
    ],
)
def test_work_is_slower_near_the_mark(forecast_mc: int, heat_ms: int, free_slots: int) -> None:
    """From the lower mark on in proportion, at most by half; above the upper one nothing begins for now."""
    found = judged(warm(forecast_mc=forecast_mc))
    pause_ms = 0 if free_slots else 30_000
    assert found == but(WARM, heat_ms + pause_ms, heat_ms=heat_ms, drain_ms=pause_ms, free_slots=free_slots)


@pytest.mark.parametrize(("tier", "spill_ms"), [(0, 0), (1, 0), (2, 15_000)])
def test_off_its_tier_it_costs(tier: int, spill_ms: int) -> None:
    """A request without a tier is nowhere off it."""
    assert judged(warm(tiers=(1,)), request(tier=tier)) == but(WARM, spill_ms, spill_ms=spill_ms)


def test_each_failure_here_costs() -> None:
    """Failures elsewhere do not."""
    failures = tuple(Failure(name, "stream_cut", Blame.NODE) for name in ("n", "m", "n"))
    assert judged(warm(), request(failures=failures)) == but(WARM, 120_000, retry_ms=120_000)
    assert failed_here(request(failures=failures), "m") == 1


@pytest.mark.parametrize(("age_ms", "late_ms"), [(0, 0), (2_000, 0), (2_001, 1), (5_000, 3_000)])
def test_old_health_costs_its_age(age_ms: int, late_ms: int) -> None:
    """What is older than `fresh_ms`, ms for ms."""
    assert judged(warm(heard_ms=AT_MS - age_ms)) == but(WARM, late_ms, late_ms=late_ms)


@pytest.mark.parametrize(("session", "cached_ms"), [("s", 64), ("t", 64), ("u", 0), ("", 0)])
def test_a_session_saves_most_of_its_prefill(session: str, cached_ms: int) -> None:
    """Where its prefix is held; what is saved does not get hot either."""
    row = warm(sessions={MODEL: ("s", "t", ""), HEAVY: ("u",)})
    found = but(WARM, -cached_ms, cached_ms=cached_ms)
    assert judged(row, request(session=session)) == found
    hot = replace(row, forecast_mc=72_500)
    heat_ms = (5_140 - cached_ms) // 4
    assert judged(hot, request(session=session)) == but(found, heat_ms, heat_ms=heat_ms)
    cold = replace(row, resident={})
    assert judged(cold, request(session=session)) == COLD


@pytest.mark.parametrize(
    ("held", "drain_ms", "free_slots"),
    [
        ([holding(run_ms=901)], 450, 1),
        ([holding(run_ms=901), holding(HEAVY, 500)], 700, 0),
        ([holding(run_ms=901, started=True, since_ms=AT_MS - 100)], 400, 1),
        ([loading(HEAVY, run_ms=800)], 0, 2),
        ([loading(HEAVY, run_ms=800), holding(HEAVY, 500)], 250, 1),
        ([loading(MODEL, run_ms=800)], 400, 2),
    ],
)
def test_what_a_warm_node_does_first(held: list[Assignment], drain_ms: int, free_slots: int) -> None:
    """Its runs, shared among its slots; an ordered load of another model keeps nobody waiting."""
    holds = {f"{n}-0": each for n, each in enumerate(held)}
    expected = but(WARM, drain_ms, drain_ms=drain_ms, free_slots=free_slots)
    assert judged(warm(slots=2, assignments=holds)) == expected


def test_prefetch_gives_more_than_there_are_slots() -> None:
    """So many runs more than slots may be sent."""
    policy = Policy(prefetch=1)
    assert judged(warm(), policy=policy) == replace(WARM, free_slots=2)
    held = {"1-0": holding(run_ms=900)}
    assert judged(warm(assignments=held), policy=policy) == but(WARM, 900, drain_ms=900, free_slots=1)


def test_a_cold_node_waits_for_all_that_it_holds() -> None:
    """An ordered load of another model too; then its own load comes."""
    held = {"1-0": loading(HEAVY, run_ms=800, reserve_mb=1), "2-0": holding(HEAVY, 300)}
    found = judged(node("n", slots=2, assignments=held))
    assert found == but(COLD, 550, drain_ms=550, free_slots=1, reserve_mb=498)


@pytest.mark.parametrize(
    ("values", "comes"),
    [
        ({}, True),
        ({"num_ctx": 8_192}, True),
        ({"num_ctx": 4_095}, False),
        ({"runner": "num_thread=2"}, False),
        ({"model": TWIN}, True),
        ({"model": HEAVY}, False),
    ],
)
def test_one_load_for_all_who_need_it(values: dict[str, Any], comes: bool) -> None:
    """A run or load of the same runner brings it; one of another runner does not."""
    held = {
        "0-0": loading(HEAVY, run_ms=0),
        "1-0": replace(holding(num_ctx=4_096, runner="x", run_ms=700), **values),
    }
    asked = request(num_ctx=4_096, runner="x")
    evict_ms = 0 if values.get("model") else 3 * 4_301
    expected = replace(WARM, reserve_mb=0) if comes else but(COLD, evict_ms, evict_ms=evict_ms)
    assert judged(node("n", assignments=held, installed=LIBRARY), asked) == but(
        expected, 700, drain_ms=700, free_slots=0
    )


@pytest.mark.parametrize(
    ("row", "ahead", "drain_ms", "free_slots", "usual"),
    [
        (warm(), Ahead(warm_ms=70, cold_ms=900, coming=(HEAVY,)), 70, 1, WARM),
        (node("n"), Ahead(warm_ms=70, cold_ms=900, coming=(HEAVY,)), 970, 1, COLD),
        (node("n"), Ahead(warm_ms=70, cold_ms=900, coming=(HEAVY, MODEL)), 970, 0, WARM),
    ],
)
def test_work_ahead_comes_first(
    row: Node, ahead: Ahead, drain_ms: int, free_slots: int, usual: Verdict
) -> None:
    """Of models that are there, and on a cold node of those that load; who is behind its load pays none."""
    found = judged(row, waiting=Waiting(ahead={"m": Ahead(warm_ms=5, coming=(MODEL,)), "n": ahead}))
    assert found == but(usual, drain_ms, drain_ms=drain_ms, free_slots=free_slots)


def test_a_further_copy_costs_some_loads() -> None:
    """`copy_loads` of them, where the model is in memory or on its way elsewhere, or was counted so."""
    three = but(COLD, 3 * 4_301, evict_ms=3 * 4_301)
    for other in (node("m", resident={MODEL: HERE}), node("m", assignments={"1-0": holding()})):
        decision = route(grid(node("n"), other), request())
        assert verdict(decision, "n") == three
    assert judged(node("n"), waiting=Waiting(copies={MODEL: 1})) == three
    assert judged(node("n"), waiting=Waiting(copies={MODEL: 0, HEAVY: 2})) == COLD


def crowded(**values: Any) -> Node:
    """A node on which the heavy model must go for the small one."""
    usual: dict[str, Any] = {"ram_used_mb": 6_600, "resident": {HEAVY: Resident("b", 2_019)}}
    return node("n", **{**usual, **values})


def test_what_must_go_costs_those_who_need_it() -> None:
    """The load of each request that is expected to come for it."""
    demand = {HEAVY: Demand(3_000, AT_MS)}
    found = judged(crowded(), demand=demand)
    lost_ms = 34_323 * (3_000 * 400_000 // 865_800) // 1000
    assert found == but(COLD, lost_ms, evict_ms=lost_ms, evicts=(HEAVY,))


def test_what_others_wait_for_goes_last() -> None:
    """Of two idle models the one that nobody waits for, though it was used last."""
    rows = {HEAVY: Resident("b", 2_019), BIG: Resident("c", 2_019)}
    row = crowded(resident=rows, used_ms={BIG: 5})
    for model, goes in ((MODEL, HEAVY), (HEAVY, BIG), (BIG, HEAVY)):
        assert judged(row, waiting=Waiting(models={model: 1})).evicts == (goes,)


@pytest.mark.parametrize(("age_ms", "wait_ms"), [(30_000, 0), (29_999, 1), (10_000, 20_000)])
def test_a_young_model_is_waited_for(age_ms: int, wait_ms: int) -> None:
    """As long as it is to stay; until then nothing begins."""
    row = crowded(resident={HEAVY: Resident("b", 2_019, since_ms=AT_MS - age_ms)})
    expected = but(COLD, wait_ms, drain_ms=wait_ms, evicts=(HEAVY,), free_slots=0 if wait_ms else 1)
    assert judged(row) == expected


def test_a_busy_model_is_waited_for() -> None:
    """Its run ends first, though a slot is free."""
    row = crowded(slots=2, assignments={"1-0": holding(HEAVY, 900)}, ram_used_mb=6_700)
    found = judged(row)
    assert (found.filter, found.evicts, found.free_slots, found.drain_ms) == ("", (HEAVY,), 0, 450)


def test_a_runner_that_works_is_reloaded_later() -> None:
    """Another context of a busy model: nothing to evict, but its run ends first."""
    row = warm(
        slots=2, resident={MODEL: replace(HERE, num_ctx=4_096)}, assignments={"1-0": holding(num_ctx=4_096)}
    )
    found = judged(row, request(num_ctx=8_192))
    assert (found.free_slots, found.load_ms, found.evict_ms, found.reserve_mb) == (0, 4_301, 3 * 4_301, 539)


@pytest.mark.parametrize(
    ("values", "serves"),
    [
        ({"resident": {TWIN: HERE}}, True),
        ({"resident": {TWIN: replace(HERE, digest="z")}}, False),
        ({"resident": {TWIN: replace(HERE, num_ctx=8_192)}}, True),
        ({"resident": {TWIN: replace(HERE, num_ctx=4_095)}}, False),
        ({"resident": {TWIN: HERE}, "unload_ordered_ms": {TWIN: AT_MS}}, False),
        ({"resident": {TWIN: HERE}, "unload_ordered_ms": {MODEL: AT_MS}}, True),
        ({"resident": {MODEL: HERE}, "unload_ordered_ms": {MODEL: AT_MS}}, False),
        ({"resident": {MODEL: HERE}, "unload_ordered_ms": {MODEL: AT_MS - 30_001}}, True),
        ({"resident": {MODEL: HERE}, "unload_ordered_ms": {HEAVY: AT_MS}}, True),
    ],
)
def test_a_twin_in_memory_serves_unless_it_was_told_to_go(values: dict[str, Any], serves: bool) -> None:
    """The same weights under another name, with the same options, or more context."""
    assert (judged(node("n", **values), request(num_ctx=4_096)).load_ms == 0) is serves


def test_the_least_cost_wins_and_names_decide_between_equals() -> None:
    """Verdicts are in the order of names; a winner without a free slot is waited for."""
    rows = (node("c", resident={MODEL: HERE}), node("b", resident={MODEL: HERE}), node("a"))
    found = route(grid(*rows), request())
    assert isinstance(found, Route)
    assert (found.node, [each.node for each in found.verdicts]) == ("b", ["a", "b", "c"])
    busy = grid(node("a", resident={MODEL: HERE}, assignments={"1-0": holding(run_ms=10)}))
    waits = route(busy, request())
    assert isinstance(waits, Wait)
    assert (waits.kind, waits.node) == ("busy", "a")
    assert route(grid(), request()) == Wait(WaitKind.NO_NODE, "", ())


def test_a_node_that_is_about_to_be_hot_begins_later() -> None:
    """What it holds, and then the time that its slope is smoothed over."""
    held = {"1-0": holding(run_ms=700)}
    found = judged(warm(slots=2, assignments=held, forecast_mc=75_001))
    assert (found.drain_ms, found.free_slots) == (350 + POLICY.slope_smoothing_ms, -1)
