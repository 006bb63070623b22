"""Rows of the node-state table after one event, whole."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.state import Grid, Node, Run
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Blame, Mark
from orion_streams.projections import evolve
from orion_streams.projections.nodes import forecast, slope
from tests.grids import AT_MS, DISK, HEAVY, MEMORY, MODEL, grid, holding, node, request, sample


def after(event: ev.AnyEvent, row: Node, **values: Any) -> Node:
    """The row of `n` after one event."""
    return evolve(grid(row, **values), event).nodes["n"]


def test_new_rules_keep_what_is_known() -> None:
    """A node that stays keeps its row under its new rules, a new one is blank, one that is gone is gone."""
    some = grid(node("n", temp_mc=61_000), node("old"))
    rules = (NodeRules("n", slots=3), NodeRules("new"))
    models = {MODEL: ModelRules(num_ctx=8_192)}
    policy = Policy(stale_ms=7_000)
    changed = evolve(some, ev.PolicyChanged(9, "p9", policy, rules, models))
    assert changed.nodes == {"n": replace(some.nodes["n"], rules=rules[0]), "new": Node(rules[1])}
    assert (changed.revision, changed.policy_id, changed.policy, changed.models) == (
        9,
        "p9",
        policy,
        models,
    )


def test_a_sample_fills_the_row() -> None:
    """Every field of a health entry is taken, and nothing else changes."""
    row = node(
        "n",
        boot="b",
        boot_before="a",
        temp_mc=66_000,
        sampled_ms=10_000,
        slope_uc_per_s=40_000,
        calm_samples=4,
    )
    entry = sample(
        "n", sampled_ms=12_000, temp_mc=66_500, ram_used_mb=2_100, ram_total_mb=8_100, cpu_permille=333,
        age_ms=70, throttled=5, work_read="8-1", inventory_known=False,
    )  # fmt: skip
    slope_uc_per_s = (40_000 * 28_000 + 250_000 * 2_000) // 30_000
    assert after(entry, row) == replace(
        row, heard_ms=AT_MS - 70, temp_mc=66_500, forecast_mc=66_500 + slope_uc_per_s * 240 // 1_000,
        slope_uc_per_s=slope_uc_per_s, sampled_ms=12_000, ram_used_mb=2_100, ram_total_mb=8_100,
        cpu_permille=333, throttled=5, calm_samples=5, work_read="8-1", inventory_known=False,
    )  # fmt: skip


def test_another_boot_is_remembered_and_its_return_is_a_second_agent() -> None:
    """a → b is a restart; a → b → a are two agents that take turns, from then on."""
    restarted = after(sample("n", boot="c"), node("n", boot="b", boot_before="a"))
    assert (restarted.boot, restarted.boot_before, restarted.two_agents_ms) == ("c", "b", None)
    turned = after(sample("n", boot="a"), node("n", boot="b", boot_before="a"))
    assert (turned.boot, turned.boot_before, turned.two_agents_ms) == ("a", "b", AT_MS)
    same = after(sample("n", boot="a"), node("n", boot="a", boot_before="a", two_agents_ms=7))
    assert (same.boot, same.boot_before, same.two_agents_ms) == ("a", "a", 7)


@pytest.mark.parametrize(
    ("row", "entry", "expected"),
    [
        ({}, {"sampled_ms": 1_001}, 22_233),  # 1 ms: 667 °C a second, for 1 ms of 30,000
        ({}, {"sampled_ms": 3_000}, 22_233),  # a third of a degree a second, for 2,000 ms
        ({}, {"sampled_ms": 31_000}, 22_233),  # at the smoothing time: the measured slope alone
        ({}, {"sampled_ms": 101_000}, 6_670),
        ({"slope_uc_per_s": 500_000}, {"sampled_ms": 4_000}, 472_233),
        ({"slope_uc_per_s": 500_000}, {"sampled_ms": 4_000, "temp_mc": 66_000}, 440_000),
        ({"slope_uc_per_s": 500}, {"sampled_ms": 1_000}, 0),
        ({"slope_uc_per_s": 500}, {"sampled_ms": 4_000, "boot": "c"}, 0),
        ({"slope_uc_per_s": 500}, {"sampled_ms": 4_000, "temp_mc": None}, 0),
        ({"slope_uc_per_s": 500, "temp_mc": None}, {"sampled_ms": 4_000}, 0),
    ],
)
def test_the_slope_is_smoothed(row: dict[str, Any], entry: dict[str, Any], expected: int) -> None:
    """A measured slope weighs as long as it took; no earlier reading of the same boot, no slope."""
    before = node("n", **{"temp_mc": 66_300, "sampled_ms": 1_000, **row})
    found = slope(before, sample("n", **{"temp_mc": 66_967, **entry}), 30_000)
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(
    ("row", "entry", "expected"),
    [
        ({}, {}, 7_000),
        ({}, {"cpu_permille": 499}, 5_000),
        ({}, {"cpu_permille": 500}, 7_000),
        ({}, {"temp_mc": 50_001}, 0),
        ({}, {"temp_mc": None}, 0),
        ({"temp_mc": None}, {}, 0),
        ({"temp_mc": None}, {"temp_mc": None}, 0),
        ({}, {"boot": "another"}, 5_000),
        ({}, {"sampled_ms": 10_000}, 5_000),
        ({}, {"sampled_ms": 9_000}, 5_000),
        ({}, {"sampled_ms": 15_000}, 10_000),
        ({}, {"sampled_ms": 99_000}, 10_000),
        ({}, {"temp_mc": 50_001, "cpu_permille": 0}, 0),
    ],
)
def test_a_sensor_that_stands_still_while_the_processor_works(
    row: dict[str, Any], entry: dict[str, Any], expected: int
) -> None:
    """Time adds up over idle stretches and restarts, a gap as five seconds; any movement ends it."""
    before = node("n", **{"boot": "b", "temp_mc": 50_000, "sampled_ms": 10_000, "still_ms": 5_000, **row})
    usual = {"boot": "b", "temp_mc": 50_000, "sampled_ms": 12_000, "cpu_permille": 900}
    assert after(sample("n", **{**usual, **entry}), before).still_ms == expected


@pytest.mark.parametrize(
    ("temp_mc", "slope_uc_per_s", "expected"),
    [
        (None, 100_000, 0),
        (0, 100_000, 0),
        (65_000, 100_000, 65_000),
        (65_001, 100_000, 65_051),
        (65_001, 3_000, 65_002),
        (65_001, 0, 65_001),
        (65_001, -100, 65_001),
    ],
)
def test_a_forecast_is_for_what_is_warm_and_rises(
    temp_mc: int | None, slope_uc_per_s: int, expected: int
) -> None:
    """At or below `derate_from_mc`, or falling, a temperature stands for itself."""
    found = forecast(temp_mc, slope_uc_per_s, Policy(slope_horizon_ms=501))
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(
    ("backed_off", "temp_mc", "used_mb", "calm"),
    [
        ("", 75_000, 7_200, True),
        ("", 75_001, 7_200, False),
        ("", 75_000, 7_201, False),
        ("hot", 70_000, 7_200, True),
        ("hot", 70_001, 7_200, False),
        ("hot", 70_000, 7_201, False),
        ("ram", 75_000, 6_800, True),
        ("ram", 75_000, 6_801, False),
        ("ram", 75_001, 6_800, False),
        ("hot ram", 70_000, 6_800, True),
        ("hot ram", 70_001, 6_800, False),
        ("hot ram", 70_000, 6_801, False),
    ],
)
def test_calm_is_at_the_mark_that_counts(backed_off: str, temp_mc: int, used_mb: int, calm: bool) -> None:
    """The lower mark of what was passed, the upper one of the other; at a mark is calm, above it is not."""
    row = after(
        sample("n", temp_mc=temp_mc, ram_used_mb=used_mb), node("n", backed_off=backed_off, calm_samples=2)
    )
    assert row.calm_samples == (3 if calm else 0)


@pytest.mark.parametrize(("sensor", "calm"), [(True, 0), (False, 1)])
def test_no_reading_is_calm_only_where_no_sensor_is(sensor: bool, calm: int) -> None:
    """A sensor that says nothing does not say that it is cool."""
    row = node("n")
    row = replace(row, rules=replace(row.rules, temperature_sensor=sensor))
    assert after(sample("n", temp_mc=None), row).calm_samples == calm


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({}, 3),
        ({"in_hand": ("9-0",)}, 0),
        ({"settled": False}, 0),
        ({"work_read": "8-9"}, 0),
        ({"work_read": "10-0"}, 3),
    ],
)
def test_missing_counts_entries_in_a_row_that_should_list_it(entry: dict[str, Any], missing: int) -> None:
    """Read past it, all its results taken, and not in hand: one more; else the count begins anew."""
    row = after(sample("n", **entry), node("n", assignments={"9-0": holding(missing=2)}))
    assert row.assignments == {"9-0": holding(missing=missing)}


def test_what_backs_a_node_off_is_noted_once() -> None:
    """Each mark once, in the order of the alphabet, and the calm begins to count anew."""
    row = node("n", calm_samples=2)
    hot = after(ev.NodeBackedOff("n", Mark.RAM, 901, 900), row)
    assert hot == replace(row, backed_off=(Mark.RAM,), calm_samples=0)
    both = after(ev.NodeBackedOff("n", Mark.HOT, 75_001, 75_000), replace(hot, calm_samples=1))
    assert both == replace(row, backed_off=(Mark.HOT, Mark.RAM), calm_samples=0)
    assert after(ev.NodeBackedOff("n", Mark.RAM, 901, 900), both) == both
    assert after(ev.NodeReturned("n"), replace(both, calm_samples=3)) == replace(row, calm_samples=0)


VERDICT = Verdict(
    node="n",
    cost_ms=999,
    drain_ms=50,
    load_ms=700,
    prefill_ms=30,
    decode_ms=200,
    cached_ms=10,
    heat_ms=5,
    reserve_mb=477,
)


def routed(row: Node, *verdicts: Verdict, **values: Any) -> Node:
    """The row after a request was routed to it."""
    some = grid(row, open_requests={"brain/a": request(model=HEAVY, num_ctx=8_192, runner="num_thread=2")})
    event = ev.RequestRouted("brain/a", 3, "n", "p", 7, verdicts, work_id="5-1")
    return evolve(some, replace(event, **values)).nodes["n"]


HELD = Run(
    request="brain/a", attempt=3, model=HEAVY, run_ms=925, since_ms=AT_MS, cold=True, alone=True,
    load_ms=700, reserve_mb=477, num_ctx=8_192, runner="num_thread=2", cached=True,
)  # fmt: skip


def test_a_routed_attempt_is_held_as_its_verdict_says() -> None:
    """Its time, its load and its memory are those of its node's verdict; its options the request's."""
    row = node("n", used_ms={MODEL: 5})
    other = Verdict(node="m", load_ms=1, reserve_mb=1)
    expected = replace(row, assignments={"5-1": HELD}, used_ms={MODEL: 5, HEAVY: AT_MS})
    assert routed(row, other, VERDICT) == expected


@pytest.mark.parametrize(("load_ms", "cold"), [(0, False), (1, True)])
@pytest.mark.parametrize(("cached_ms", "cached"), [(0, False), (1, True)])
def test_cold_and_cached_are_what_costs_or_saves(
    load_ms: int, cold: bool, cached_ms: int, cached: bool
) -> None:
    """One ms of load is cold, one ms saved is cached."""
    held = routed(node("n"), replace(VERDICT, load_ms=load_ms, cached_ms=cached_ms)).assignments["5-1"]
    assert isinstance(held, Run)
    assert (held.cold, held.cached) == (cold, cached)


def test_without_a_verdict_nothing_is_known_of_the_attempt() -> None:
    """A decision that does not mention its own node still takes the slot."""
    held = routed(node("n"), replace(VERDICT, node="m")).assignments["5-1"]
    assert held == replace(HELD, run_ms=0, cold=False, load_ms=0, reserve_mb=0, cached=False)


def test_who_comes_second_is_not_alone_and_neither_is_the_first() -> None:
    """Two attempts on a node: what either measures contains the other."""
    row = routed(node("n", assignments={"4-0": holding(alone=True)}), VERDICT)
    assert row.assignments == {"4-0": holding(alone=False), "5-1": replace(HELD, alone=False)}


def test_an_attempt_that_starts_counts_from_then() -> None:
    """The entry's age is taken off; other attempts and other fences change nothing."""
    row = node("n", assignments={"5-1": holding(request="brain/a", run_ms=7), "6-0": holding()})
    opened = {"brain/a": request(node="n", work_id="5-1")}
    event = ev.RequestStarted("brain/a", 1, "5-1", age_ms=40)
    started = replace(row.assignments["5-1"], started=True, since_ms=AT_MS - 40)
    assert after(event, row, open_requests=opened) == replace(
        row, assignments={"5-1": started, "6-0": holding()}
    )
    assert after(replace(event, work_id="7-0"), row, open_requests=opened) == row
    assert after(event, row) == row
    removed = evolve(grid(row, open_requests={"brain/a": request(node="gone", work_id="5-1")}), event)
    assert removed.nodes == {"n": row}


def test_only_an_ollama_that_is_away_makes_models_unknown() -> None:
    """After any other failure the inventory is what it was; in both cases the slot is free."""
    row = node("n", assignments={"5-1": holding(), "6-0": holding(HEAVY)})
    left = replace(row, assignments={"6-0": holding(HEAVY)}, failed_ms=AT_MS)
    event = ev.AttemptFailed("brain/a", 1, "n", "5-1", "stream_cut", Blame.NODE)
    assert after(event, row) == left
    away = after(replace(event, code="ollama_unreachable"), row)
    assert away == replace(left, inventory_known=False)
    assert away.inventory_known is False


@pytest.mark.parametrize(
    ("before", "entry", "expected"),
    [
        ({}, {}, (False, False)),
        ({}, {"leaving": True}, (True, False)),
        ({"leaving": True}, {}, (False, False)),
        ({"leaving": True}, {"leaving": True, "goodbye": True}, (True, True)),
        ({}, {"goodbye": True}, (True, True)),
        ({"leaving": True, "left": True}, {}, (True, True)),
        ({"leaving": True, "left": True}, {"boot": "another"}, (False, False)),
        ({"leaving": True, "left": True}, {"boot": "another", "leaving": True}, (True, False)),
    ],
)
def test_who_has_left_is_away_until_another_boot(
    before: dict[str, Any], entry: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    """Whatever comes after the goodbye."""
    row = after(sample("n", **entry), node("n", **before))
    assert (row.leaving, row.left) == expected


@pytest.mark.parametrize(("code", "expected"), [("agent_leaving", True), ("agent_restarted", False)])
def test_who_hands_work_back_is_leaving(code: str, expected: bool) -> None:
    """Before its health says so, or the work would be sent there again."""
    event = ev.AttemptFailed("brain/a", 1, "n", "5-1", code, Blame.OURS)
    assert after(event, node("n")).leaving is expected


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({}, 1),
        ({"goodbye": True}, 3),
        ({"goodbye": True, "in_hand": ("5-1",)}, 0),
        ({"goodbye": True, "settled": False}, 0),
        ({"goodbye": True, "work_read": "5-0"}, 0),
    ],
)
def test_after_a_goodbye_nothing_more_is_waited_for(entry: dict[str, Any], missing: int) -> None:
    """What was read and has no result is gone at once; what has one on its way is not, nor what was never
    read."""
    row = after(sample("n", **entry), node("n", assignments={"5-1": holding()}))
    assert row.assignments["5-1"].missing == missing


@pytest.mark.parametrize(("reason", "freed"), [("gone", True), ("silent", False), ("left", False)])
def test_only_what_is_gone_frees_its_slot(reason: str, freed: bool) -> None:
    """Whatever else is given up may still be running."""
    row = node("n", assignments={"5-1": holding()})
    event = ev.AttemptAbandoned("brain/a", 1, "n", "5-1", AbandonReason(reason))
    assert after(event, row).assignments == ({} if freed else row.assignments)


EVENTS: tuple[ev.AnyEvent, ...] = (
    sample("gone"),
    ev.NodeBackedOff("gone", Mark.HOT, 1, 0),
    ev.NodeReturned("gone"),
    ev.RequestRouted("brain/a", 1, "gone", "p", 1, (), work_id="5-1"),
    ev.AttemptEnded("brain/x", 1, "gone", "5-1", "done"),
    ev.AttemptFailed("brain/x", 1, "gone", "5-1", "ollama_unreachable", Blame.NODE),
    ev.AttemptAbandoned("brain/x", 1, "gone", "5-1", AbandonReason.GONE),
    ev.BreakerOpened("gone", 3, 15_000),
    ev.BreakerClosed("gone"),
    ev.ModelInstalled("gone", MODEL, "a", 253),
    ev.ModelRemoved("gone", MODEL),
    ev.ModelLoaded("gone", MODEL, "a", 253),
    ev.ModelUnloaded("gone", MODEL),
    ev.UnloadOrdered("gone", MODEL),
    ev.LoadOrdered("gone", MODEL, 4_096, "", 900, 477, "5-1"),
    ev.LoadEnded("gone", MODEL, "5-1", ok=True),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.__struct_config__.tag))
def test_an_event_of_a_node_that_is_not_there_changes_no_node(event: ev.AnyEvent) -> None:
    """Rules may have removed it: history is folded all the same."""
    some: Grid = grid(node("n", resident=MEMORY, installed=DISK), open_requests={"brain/a": request()})
    assert evolve(some, event).nodes == some.nodes


def test_a_falling_temperature_is_forecast_as_it_is() -> None:
    """However far the horizon lies."""
    far = Policy(slope_horizon_ms=2_000_000)
    assert [forecast(65_001, slope_uc_per_s, far) for slope_uc_per_s in (-1, 0, 1)] == [
        65_001,
        65_001,
        65_003,
    ]
