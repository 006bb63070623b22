"""A log under other rules: what would become of its nodes, and of what they are told to load."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orion_streams.errors import ConfigError
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER, NodeRules
from orion_streams.model.vocabulary import Blame
from orion_streams.replay.explain_change import Answer, Term
from orion_streams.replay.rule_changes import change_of
from orion_streams.replay.whatif import WhatIf
from tests.grids import HEAVY, MODEL
from tests.replay.books import NODES, QUIET, A, B, accepted, beat, completed, house, result, started
from tests.replay.decided import nothing, simulated
from tests.replay.questions import asked, only, wide


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
        failed = ev.AttemptFailed(**result(book, name), code="stream_cut", blame=Blame.NODE)
        book.commit(failed, ev.RequestCancelled(f"brain/{name}"))
    book.commit(accepted("q4"))
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
    given = sum(isinstance(event_codec.decode(raw), ev.LoadOrdered) for _, raw in rows)
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
