"""A log under other rules: where its requests would go, and by which term."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules
from orion_streams.model.vocabulary import Blame
from orion_streams.replay.explain_change import Answer, Term
from orion_streams.replay.rule_changes import change_of
from orion_streams.replay.whatif import WhatIf
from tests.grids import HEAVY, MODEL, sample
from tests.replay.books import QUIET, A, B, Book, accepted, beat, completed, house, quiet, result, started
from tests.replay.decided import nothing
from tests.replay.questions import asked, only, wide


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


def test_without_a_node_nothing_goes_there() -> None:
    """Each attempt that history gave it is asked anew, and none would go there."""
    rows = wide()
    went = [
        (event.request, event.attempt)
        for _, raw in rows
        if isinstance(event := event_codec.decode(raw), ev.RequestRouted) and event.node == "orion-worker"
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
    monkeypatch.setattr("orion_streams.replay.compare_decisions.Comparison._disown", lambda *_: None)
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
    book.commit(ev.AttemptFailed(**result(book, "q1"), code="stream_cut", blame=Blame.NODE))
    return book, "q1"


def failed_alone() -> tuple[Book, str]:
    """The faster node failed the request once, while the other was not heard from; then it was."""
    book = house(nodes=(NodeRules(A), NodeRules(B, decode_us_per_mb=300)), a=(MODEL,), b=(MODEL,))
    for _ in range(3):
        beat(book, {A: 50_000}, 2_000)
    book.commit(accepted("q1"))
    book.commit(started(book, "q1"))
    book.commit(ev.AttemptFailed(**result(book, "q1"), code="stream_cut", blame=Blame.NODE))
    beat(book, {A: 50_000, B: 50_000})
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
        (failed_alone, ["policy.retry_ms=0"], ("retry", A), A),
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
