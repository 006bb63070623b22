"""A log under other rules: what would be decided otherwise, why, and each thing once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams import events as ev
from orion_streams.config import DECIDER, NodeRules
from orion_streams.draft import LoggedGrid
from orion_streams.errors import ConfigError, LogError
from orion_streams.history import fold_raw
from orion_streams.recording import is_head
from orion_streams.replay.changes import Change, change_of
from orion_streams.replay.differing import Changed
from orion_streams.replay.turning import Answer, Term
from orion_streams.replay.whatif import Outcome, WhatIf
from orion_streams.simulation.cluster.cluster import Cluster, undisturbed
from orion_streams.simulation.cluster.faults import swarm
from orion_streams.state import encode_grid
from tests.grids import HEAVY, MODEL, sample
from tests.properties import histories
from tests.properties.strategies import FEW
from tests.replay.books import (
    NODES,
    QUIET,
    A,
    B,
    Book,
    accepted,
    beat,
    completed,
    house,
    quiet,
    result,
    started,
)
from tests.replay.decided import Row, chained, chunks, nothing, simulated

AS_IT_WAS = change_of([])


def asked(rows: Sequence[Row], change: Change, base: LoggedGrid | None = None) -> Outcome:
    """What would change."""
    what_if = WhatIf(base or nothing(), change)
    for stretch in chunks(rows):
        what_if.take(stretch)
    return what_if.finish()


def only(outcome: Outcome) -> Changed:
    """The one changed decision."""
    [changed] = outcome.decisions
    return changed


def wide(regime: str = "load-heavy", workload: str = "hot-afternoon", requests: int = 60) -> list[Row]:
    """A simulated run's log, by the real decider."""
    return simulated(regime, workload, requests).rows


# no change


@pytest.mark.parametrize("workload", ["hot-afternoon", "bursty", "node-loss"])
def test_the_same_rules_change_nothing(workload: str) -> None:
    """On logs of the real decider, cut anywhere: all that was decided is asked, and nothing changes."""
    rows = wide(workload=workload)
    for size in (1, 100_000):
        what_if = WhatIf(nothing(), AS_IT_WAS)
        for stretch in chunks(rows, size):
            what_if.take(stretch)
        outcome = what_if.finish()
        assert outcome.events == len(rows)
        assert outcome.asked["route"] >= outcome.requests == 60
        assert not outcome.decisions and not any(outcome.changed.values())
        assert encode_grid(what_if.shadow) == encode_grid(what_if.recorded.grid)


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_the_same_rules_change_nothing_under_faults(seed: int) -> None:
    """The same on logs of a whole cluster whose parts are killed, cut and misled."""
    with undisturbed():
        cluster = Cluster(seed, 120, swarm(seed))
        cluster.run()
    rows = list(enumerate(cluster.server.journal.log, 1))
    outcome = asked(rows, AS_IT_WAS)
    assert sum(outcome.asked.values()) > 100
    assert not outcome.decisions


@FEW
@given(st.lists(st.lists(histories.EVENTS, max_size=6), max_size=12), histories.CHANGED)
def test_the_same_rules_change_nothing_after_any_history(
    commits: list[list[ev.AnyEvent]], rules: ev.PolicyChanged
) -> None:
    """Also where no router would have taken such inputs; both grids stay the same, byte for byte."""
    book = Book()
    book.commit(rules)
    for inputs in commits:
        book.commit(*(each for each in inputs if not isinstance(each, ev.Committed)))
    what_if = WhatIf(nothing(), AS_IT_WAS)
    what_if.take(book.rows)
    assert not what_if.finish().decisions
    assert encode_grid(what_if.shadow) == encode_grid(what_if.recorded.grid)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ev.RequestRouted, {"node": "orion-edge"}),
        (ev.RequestDeferred, {"kind": "no_node"}),
        (ev.UnloadOrdered, {"model": "none:1b", "reason": "relief"}),
    ],
)
def test_a_forged_decision_is_noticed(kind: type[ev.Event], changes: dict[str, Any]) -> None:
    """Negative control: one decision of the log was changed, and the same rules decide otherwise there."""
    events = [ev.decode(raw) for _, raw in wide()]
    at = next(n for n, event in enumerate(events) if isinstance(event, kind))
    events[at] = replace(events[at], **changes)
    assert asked(chained(events), AS_IT_WAS).decisions[0].position == at + 1


def test_a_log_is_asked_from_the_middle_on() -> None:
    """The base may be any commit's end: then nothing changes either, and the base is left alone."""
    rows = wide()
    cut = next(n for n in range(len(rows) // 2, len(rows)) if is_head(rows[n][1]))
    base = nothing()
    fold_raw(base, rows[:cut])
    before = encode_grid(base.grid)
    assert not asked(rows[cut:], AS_IT_WAS, base).decisions
    hotter = change_of(["policy.temp_max_mc=60000", "policy.temp_return_mc=55000"])
    assert asked(rows[cut:], hotter, base).changed["route"] > 0
    assert encode_grid(base.grid) == before


def test_what_another_version_decided_is_not_judged() -> None:
    """Decisions of older code are folded and counted; our own in the same log are asked."""
    events = [ev.decode(raw) for _, raw in wide()]
    outcome = asked(chained(events, decider=1), change_of([], ["orion-worker"]))
    assert outcome.older > 60 and not outcome.decisions and not any(outcome.asked.values())
    assert asked(chained(events), change_of([], ["orion-worker"])).older == 0


def test_a_log_that_was_changed_is_refused() -> None:
    """The running hash tells."""
    rows = wide()
    rows[20] = (rows[20][0], rows[20][1].replace(b"1", b"2", 1))
    with pytest.raises(LogError):
        asked(rows, AS_IT_WAS)


# marks


def test_a_lower_mark_takes_the_node_out_earlier() -> None:
    """The node is out from 71 °C on instead of 76 °C, for longer; what was sent to it would go elsewhere,
    and the term is `hot` with its figures. Afterwards nothing differs."""
    book = house(a=(MODEL,))
    for temp_mc in (70_000, 71_000, 71_000):
        beat(book, {A: temp_mc, B: 50_000})
    book.commit(accepted("q1"))
    book.commit(started(book, "q1"), completed(book, "q1"))
    for temp_mc in (76_000, *[60_000] * 6):
        beat(book, {A: temp_mc, B: 50_000})
    book.commit(accepted("q2"))
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=70500", "policy.temp_return_mc=65000"]))
    out, moved = outcome.decisions
    assert (out.kind, out.node) == ("backoff", A)
    assert (out.recorded.kind, out.would) == ("in_service", Answer("out", A, "hot"))
    assert out.term == Term("filter", "hot", A, 71_000, 70_500)
    assert (moved.request, moved.attempt, moved.recorded, moved.would) == (
        "brain/q1", 1, Answer("routed", A), Answer("routed", B)
    )  # fmt: skip
    assert moved.term == Term("filter", "hot", A, 71_000, 65_000)
    [away] = outcome.nodes
    assert (away.recorded.times, away.would.times) == (1, 1)
    assert away.would.ms > away.recorded.ms == 3_000
    assert (outcome.requests, outcome.requests_changed) == (2, 1)
    assert outcome.changed == {**dict.fromkeys(outcome.changed, 0), "backoff": 1, "route": 1}


def test_a_higher_mark_leaves_the_node_in_service() -> None:
    """What waited for another node would have gone; the filter no longer applies, as it was recorded."""
    book = house(a=(MODEL,), nodes=(NodeRules(A),))
    beat(book, {A: 75_500})
    book.commit(accepted("q1"))
    for _ in range(5):
        beat(book, {A: 60_000})
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=80000"]))
    stays, goes = outcome.decisions
    assert (stays.recorded, stays.would.kind) == (Answer("out", A, "hot"), "in_service")
    assert stays.term == Term("lifted", "hot", A, 75_500, 75_000)
    assert (goes.recorded, goes.would) == (Answer("deferred", "", "no_node"), Answer("routed", A))
    assert goes.term == Term("lifted", "hot", A, 75_500, 70_000)
    assert (outcome.nodes[0].recorded.times, outcome.nodes[0].would.times) == (1, 0)


def test_a_node_backs_off_once_not_at_every_boundary() -> None:
    """The shadow's own answers are folded: one backoff, however long it lasts."""
    book = house()
    for _ in range(20):
        beat(book, {A: 72_000, B: 50_000})
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=71000"]))
    assert only(outcome).would == Answer("out", A, "hot")
    assert outcome.nodes[0].would.times == 1
    assert outcome.nodes[0].would.ms == 19_000


def test_work_is_given_up_above_a_lower_critical_mark_once() -> None:
    """A running attempt would be cancelled where the temperature passes the mark, and is not asked about
    again while history runs on."""
    book = house(a=(MODEL,))
    book.commit(accepted("q1"))
    book.commit(started(book, "q1"))
    for _ in range(4):
        beat(book, {A: 74_000, B: 50_000})
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=72000", "policy.temp_critical_mc=73000"]))
    [given_up] = [each for each in outcome.decisions if each.kind == "give_up"]
    assert (given_up.recorded.kind, given_up.would) == ("goes_on", Answer("given_up", B, "critical"))
    assert given_up.term == Term("filter", "critical", A, 74_000, 73_000)


def test_rules_that_come_later_are_changed_too() -> None:
    """A policy.changed of the log brings its own rules, and the setting goes on top of them."""
    book = house()
    later = ev.PolicyChanged(2, "p2", replace(QUIET, spill_ms=1), NODES, decider=DECIDER)
    book.commit(later, accepted("q1"))
    for _ in range(2):
        beat(book, {A: 72_000, B: 50_000})
    what_if = WhatIf(nothing(), change_of(["policy.temp_max_mc=71000"]))
    what_if.take(book.rows)
    outcome, shadow = what_if.finish(), what_if.shadow
    assert Answer("out", A, "hot") in [each.would for each in outcome.decisions]
    assert (shadow.policy.temp_max_mc, shadow.policy.spill_ms, shadow.revision) == (71_000, 1, 2)
    assert shadow.open == book.grid.open
    assert shadow.position == what_if.recorded.grid.position == len(book.rows)


def test_a_node_that_the_log_never_had_is_refused_at_the_end() -> None:
    """Until then a later policy.changed may still bring it: one that does is fine."""
    book = house()
    change = change_of(["nodes.c.slots=2"])
    with pytest.raises(ConfigError, match="the log has no node c"):
        asked(book.rows, change)
    later = (*NODES, NodeRules("c"))
    book.commit(ev.PolicyChanged(2, "p2", QUIET, later, decider=DECIDER))
    assert not asked(book.rows, change).decisions


def test_a_breaker_that_takes_more_failures_stays_closed() -> None:
    """Three requests in a row failed: it opened, and with five it would not have; what waits for it
    would go. And with two it would have opened earlier."""
    book = house(nodes=(NodeRules(A),), a=(MODEL,))
    for name in ("q1", "q2", "q3"):
        beat(book, {A: 50_000})
        book.commit(accepted(name))
        book.commit(started(book, name))
        cancelled = [ev.RequestCancelled(f"brain/{name}")] if name != "q3" else []
        book.commit(ev.AttemptFailed(**result(book, name), code="stream_cut", blame="node"), *cancelled)
    assert book.grid.nodes[A].opened_ms is not None
    more = asked(book.rows, change_of(["policy.breaker_failures=5"]))
    [stays] = [each for each in more.decisions if each.kind == "breaker"]
    assert (stays.recorded, stays.would.kind) == (Answer("out", A, "breaker"), "in_service")
    assert stays.term == Term("lifted", "breaker", A, 3, 5)
    assert [each.would for each in more.decisions if each.kind == "wait"] == [Answer("routed", A)]
    less = asked(book.rows, change_of(["policy.breaker_failures=2"]))
    [opens] = [each for each in less.decisions if each.kind == "breaker"]
    assert (opens.would, opens.term) == (Answer("out", A, "breaker"), Term("filter", "breaker", A, 2, 2))


def test_orders_that_would_not_be_given() -> None:
    """What idle nodes were told to load: with plan_every_ms=0 nobody would have told them, each order a
    row; and with a plan that was not there, one row for each that would have been given."""
    rows = wide("decode-heavy", "bursty")
    given = sum(isinstance(ev.decode(raw), ev.LoadOrdered) for _, raw in rows)
    outcome = asked(rows, change_of(["policy.plan_every_ms=0"]))
    loads = [each for each in outcome.decisions if each.recorded.kind == "load"]
    assert 0 < len(loads) == given
    assert {(each.would.kind, each.term.kind) for each in loads} == {("nothing", "plan")}
    without = simulated("decode-heavy", "bursty", 60, plan_every_ms=0).rows
    would = asked(without, change_of(["policy.plan_every_ms=10000"]))
    orders = [each.would for each in would.decisions if each.kind == "order"]
    assert orders and all(each.kind in ("load", "unload") for each in orders)


def test_an_order_is_reported_once_until_its_model_moves() -> None:
    """A load that nobody ordered would be ordered every ten seconds: one row, and another one after the
    model came and went."""
    book = house(nodes=(NodeRules(A),))
    for name in ("q1", "q2", "q3", "q4", "q5"):
        book.commit(accepted(name, HEAVY))
        book.commit(started(book, name), completed(book, name))
    book.commit(ev.ModelUnloaded(A, HEAVY))
    counts = []
    for _ in range(2):
        for _ in range(35):
            beat(book, {A: 50_000})
        outcome = asked(book.rows, change_of(["policy.plan_every_ms=10000"]))
        assert {each.would for each in outcome.decisions} == {Answer("load", A, HEAVY)}
        counts.append(len(outcome.decisions))
        book.commit(ev.ModelLoaded(A, HEAVY, "d2", 2_400, 4_096), ev.ModelUnloaded(A, HEAVY))
    assert counts == [1, 2]


def test_models_that_go_for_a_request_are_a_part_of_its_route() -> None:
    """Routes that would evict others, or none, are changed routes, not changed orders as well."""
    outcome = asked(wide(), change_of(["policy.evict_horizon_ms=1"]))
    assert any(each.recorded.evicts or each.would.evicts for each in outcome.decisions)
    assert outcome.changed["order"] == 0


def test_an_id_that_is_used_again_is_another_request() -> None:
    """What was said of the first one is said of the second one, too."""
    book = house(a=(MODEL,))
    for _ in range(2):
        beat(book, {A: 50_000, B: 50_000})
        book.commit(accepted("q1"))
        book.commit(started(book, "q1"), completed(book, "q1"))
    outcome = asked(book.rows, change_of([], [A]))
    assert [(each.request, each.would.node) for each in outcome.decisions] == [("brain/q1", B)] * 2


def test_where_the_router_did_not_think_nothing_is_asked() -> None:
    """A backlog is folded, and no decision belongs to it: neither a backoff nor a route."""
    book = house(a=(MODEL,))
    book.commit(sample(A, sampled_ms=book.now_ms, temp_mc=73_000), accepted("q1"), decided=False)
    book.commit(sample(A, sampled_ms=book.now_ms, temp_mc=50_000), sample(B), passed_ms=0)
    assert not asked(book.rows, change_of(["policy.temp_max_mc=72000"])).decisions


@pytest.mark.parametrize("begun", [False, True])
def test_a_full_commit_leaves_the_rest_to_the_next_one(begun: bool) -> None:
    """With one answer a commit, what the changed rules answer first leaves no room for the rest: it is
    neither a request that would still wait nor an attempt that would go on."""
    book = house(replace(QUIET, max_events=1, copy_loads=50), a=(MODEL,))
    book.commit(accepted("q1"))
    last: list[ev.AnyEvent]
    if begun:
        book.commit(accepted("q2"))
        book.commit(started(book, "q1"))
        last = [sample(B, sampled_ms=book.now_ms, temp_mc=73_000), completed(book, "q1")]
    else:
        beat(book, {A: 76_000, B: 50_000})
        last = [sample(B, sampled_ms=book.now_ms, temp_mc=73_000)]
    [answer] = book.commit(*last)
    assert isinstance(answer, ev.RequestRouted if begun else ev.AttemptAbandoned)
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=72000"]))
    assert {each.kind for each in outcome.decisions} == {"backoff"}


def test_an_order_may_be_left_to_the_next_commit() -> None:
    """The same of a load that was ordered while the changed rules had another thing to say first."""
    book = house(replace(QUIET, max_events=1, plan_every_ms=10_000))
    for name in ("q1", "q2", "q3", "q4", "q5"):
        book.commit(accepted(name, HEAVY))
        book.commit(started(book, name), completed(book, name))
    beat(book, {A: 50_000, B: 50_000})
    book.commit(ev.ModelUnloaded(A, HEAVY), ev.ModelUnloaded(B, HEAVY), passed_ms=6_000)
    assert not any(isinstance(each, ev.LoadOrdered) for each in book.events)
    while book.grid.at_ms % 10_000 != 9_000:
        book.commit(sample(A), sample(B))
    answers = book.commit(sample(A), sample(B, sampled_ms=book.now_ms, temp_mc=73_000))
    assert [type(each) for each in answers] == [ev.LoadOrdered]
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=72000"]))
    assert outcome.changed["order"] == 0 < outcome.asked["order"]


def test_what_is_answered_first_counts_in_the_figures() -> None:
    """A node that is out since this very boundary is held against its lower mark; and an attempt that is
    given up there counts among those that a request had."""
    book = house(nodes=(NodeRules(A),))
    quiet(book)
    book.commit(accepted("q1"))
    book.commit(sample(A, sampled_ms=book.now_ms, temp_mc=73_000))
    [goes, _] = asked(book.rows, change_of(["policy.temp_max_mc=72000"])).decisions
    assert (goes.recorded, goes.would) == (Answer("routed", A), Answer("deferred", "", "no_node"))
    assert goes.term == Term("filter", "hot", A, 73_000, 70_000)
    quiet(book)
    [ends] = asked(book.rows, change_of(["policy.max_attempts=1"])).decisions
    assert ends.would == Answer("failed", code="attempts_exhausted")
    assert ends.term == Term("rule", "attempts_exhausted", "", 1, 1)


def test_what_follows_from_an_attempt_that_would_go_on_is_not_asked() -> None:
    """A node that stays in service below a higher mark would keep its attempt; the one that history made
    instead is its own, also when its node falls silent for longer than it might."""
    book = house(replace(QUIET, stale_ms=9_000), a=(MODEL,))
    book.commit(accepted("q1"))
    beat(book, {A: 76_000, B: 50_000})
    assert book.grid.open["brain/q1"].node == B
    for _ in range(5):
        beat(book, {A: 76_000})
    outcome = asked(book.rows, change_of(["policy.temp_max_mc=80000", "policy.stale_ms=3000"]))
    assert [(each.kind, each.attempt, each.would.kind) for each in outcome.decisions] == [
        ("give_up", 1, "goes_on"), ("backoff", 0, "in_service"),
    ]  # fmt: skip
    assert outcome.decisions[0].recorded == Answer("given_up", B, "hot")
    assert outcome.decisions[0].term == Term("lifted", "hot", A, 76_000, 75_000)


def test_a_request_that_would_end_names_the_limit() -> None:
    """A second attempt would not have been made with max_attempts=1."""
    book, _ = failed()
    found = only(asked(book.rows, change_of(["policy.max_attempts=1"])))
    assert (found.recorded, found.would) == (
        Answer("routed", B),
        Answer("failed", code="attempts_exhausted"),
    )
    assert (found.kind, found.attempt, found.term) == (
        "route",
        2,
        Term("rule", "attempts_exhausted", "", 1, 1),
    )


def test_who_is_served_instead_is_named() -> None:
    """With a slot more two requests would have gone; one that keeps its node takes a slot less."""
    book = house(nodes=(NodeRules(A, slots=2),), a=(MODEL,))
    book.commit(accepted("q1"), accepted("q2"))
    found = only(asked(book.rows, change_of(["nodes.a.slots=1"])))
    assert (found.request, found.recorded, found.would) == (
        "brain/q2", Answer("routed", A), Answer("deferred", A, "busy")
    )  # fmt: skip
    assert found.term == Term("slots", "brain/q1", A, before=1, after=0)


# without a node


def test_without_a_node_nothing_goes_there() -> None:
    """Each attempt that history gave it is asked anew, and none would go there."""
    rows = wide()
    went = [
        (event.request, event.attempt)
        for _, raw in rows
        if isinstance(event := ev.decode(raw), ev.RequestRouted) and event.node == "orion-worker"
    ]
    outcome = asked(rows, change_of([], ["orion-worker"]))
    assert went and set(went) <= {(each.request, each.attempt) for each in outcome.decisions}
    assert not [
        each
        for each in outcome.decisions
        if each.would == replace(each.would, kind="routed", node="orion-worker")
    ]
    there = [
        each.term for each in outcome.decisions if each.recorded.node == "orion-worker" and each.request
    ]
    assert {(each.kind, each.name) for each in there} == {("filter", "role")}


def test_an_attempt_that_is_historys_own_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower mark takes the node out; what history sends there all the same would be given up as `hot` at
    the next boundary, had it not been asked already. Negative control: forgetting that."""
    book = house(a=(MODEL,))
    for temp_mc in (72_000, 72_000):
        beat(book, {A: temp_mc, B: 50_000})
    book.commit(accepted("q1"))
    beat(book, {A: 72_000, B: 50_000})
    change = change_of(["policy.temp_max_mc=71000"])
    assert [each.kind for each in asked(book.rows, change).decisions] == ["backoff", "route"]
    monkeypatch.setattr("orion_streams.replay.differing.Comparison._disown", lambda *_: None)
    assert [each.kind for each in asked(book.rows, change).decisions] == ["backoff", "route", "give_up"]


def test_a_request_that_waits_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a busy node at many boundaries, and would go elsewhere at each of them: one row.
    Negative control: without a memory it is one for each."""
    book = house(replace(QUIET, copy_loads=50), a=(MODEL,))
    book.commit(accepted("q1"))
    book.commit(accepted("q2"))
    for _ in range(9):
        beat(book, {A: 50_000, B: 50_000})
    change = change_of(["policy.copy_loads=0"])
    found = only(asked(book.rows, change))
    assert (found.request, found.recorded, found.would) == (
        "brain/q2", Answer("deferred", A, "busy"), Answer("routed", B)
    )  # fmt: skip

    class Forgetful(dict[str, set[Answer]]):
        def __setitem__(self, key: str, value: set[Answer]) -> None:
            """Nothing is kept."""

    what_if = WhatIf(nothing(), change)
    what_if.comparison._told = Forgetful()
    what_if.take(book.rows)
    assert len(what_if.finish().decisions) == 10


# the terms of the cost


def tiers() -> tuple[Book, str]:
    """Its own tier's node is busy for long, the other one free."""
    book = house(nodes=(NodeRules(A, tiers=(1,)), NodeRules(B, tiers=(2,))), a=(MODEL,), b=(MODEL,))
    book.commit(accepted("q1", tier=2, num_predict=90))
    book.commit(accepted("q2", tier=2))
    return book, "q2"


def failed() -> tuple[Book, str]:
    """The faster node failed the request once."""
    book = house(nodes=(NodeRules(A), NodeRules(B, decode_us_per_mb=300)), a=(MODEL,), b=(MODEL,))
    book.commit(accepted("q1"))
    book.commit(started(book, "q1"))
    book.commit(ev.AttemptFailed(**result(book, "q1"), code="stream_cut", blame="node"))
    return book, "q1"


def cold() -> tuple[Book, str]:
    """In memory nowhere, and as dear everywhere."""
    book = house()
    book.commit(accepted("q1"))
    return book, "q1"


def overdue() -> tuple[Book, str]:
    """The warm node is about to be done, by what was expected."""
    book = house(replace(QUIET, copy_loads=0, load_us_per_mb=8_000), a=(MODEL,))
    book.commit(accepted("q1"))
    book.commit(started(book, "q1"))
    for _ in range(3):
        beat(book, {A: 50_000, B: 50_000})
    book.commit(accepted("q2"))
    return book, "q2"


def copied() -> tuple[Book, str]:
    """The model is in memory on a busy node; another copy would have to be worth it."""
    book = house(replace(QUIET, copy_loads=50), a=(MODEL,))
    book.commit(accepted("q1"))
    book.commit(accepted("q2"))
    return book, "q2"


@pytest.mark.parametrize(
    ("make", "settings", "term", "would"),
    [
        (tiers, ["policy.spill_ms=0"], ("spill", A), A),
        (failed, ["policy.retry_ms=0"], ("retry", A), A),
        (cold, ["nodes.a.load_us_per_mb=90000"], ("load", A), B),
        (overdue, ["policy.residual_permille=1000"], ("drain", A), B),
        (copied, ["policy.copy_loads=0"], ("evict", B), B),
    ],
)
def test_the_term_that_turned_it_is_named(
    make: Callable[[], tuple[Book, str]], settings: list[str], term: tuple[str, str], would: str
) -> None:
    """The term of the cost, the node on which it moved, and where the request would go."""
    book, name = make()
    found = [
        each for each in asked(book.rows, change_of(settings)).decisions if each.request == f"brain/{name}"
    ]
    [changed] = found
    assert (changed.term.kind, changed.term.name, changed.term.node) == ("cost", *term)
    assert changed.term.before != changed.term.after
    assert changed.would.node == would != changed.recorded.node
