"""The term that turned a decision, from two lists of verdicts."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orion_streams.model.verdict import TERMS, Verdict
from orion_streams.model.vocabulary import Filter
from orion_streams.replay.explain_change import Answer, Term, turned

A, B = Verdict(node="a", cost_ms=100, free_slots=1), Verdict(node="b", cost_ms=200, free_slots=1)
TO_A, TO_B, NOWHERE = Answer("routed", "a"), Answer("routed", "b"), Answer("deferred", "", "no_node")


@pytest.mark.parametrize("name", TERMS)
def test_the_term_that_grew_is_named_on_its_node(name: str) -> None:
    """Each term of the cost, also the one that is subtracted, which must shrink for that."""
    little, much = ({f"{name}_ms": 5}, {f"{name}_ms": 900})
    was, now = (much, little) if name == "cached" else (little, much)
    before, after = replace(A, **was), replace(A, **now)
    found = turned(TO_A, TO_B, [before, B], [after, B])
    assert found == Term("cost", name, "a", before=was[f"{name}_ms"], after=now[f"{name}_ms"])


@pytest.mark.parametrize("name", TERMS)
def test_the_term_that_shrank_on_the_other_node_is_named_there(name: str) -> None:
    """The other node may have become cheaper instead."""
    little, much = ({f"{name}_ms": 5}, {f"{name}_ms": 900})
    was, now = (little, much) if name == "cached" else (much, little)
    found = turned(TO_A, TO_B, [A, replace(B, **was)], [A, replace(B, **now)])
    assert (found.kind, found.name, found.node) == ("cost", name, "b")


def test_the_term_that_did_most_is_named() -> None:
    """Of two that moved the larger one, also where it moved against a third."""
    now = replace(A, spill_ms=300, load_ms=500, heat_ms=10)
    found = turned(TO_A, TO_B, [replace(A, heat_ms=90), B], [now, B])
    assert (found.name, found.before, found.after) == ("load", 0, 500)


def test_a_filter_goes_before_every_cost() -> None:
    """What newly holds the chosen node back, or no longer the other one, with its figures."""
    hot = Verdict(node="a", filter=Filter.HOT, value=76_000, limit=75_000)
    assert turned(TO_A, TO_B, [replace(A, load_ms=9), B], [hot, B]) == Term(
        "filter", "hot", "a", 76_000, 75_000
    )
    assert turned(TO_B, TO_A, [hot, B], [A, B]) == Term("lifted", "hot", "a", 76_000, 75_000)
    assert turned(TO_A, NOWHERE, [A], [hot]).kind == "filter"
    assert turned(NOWHERE, TO_A, [hot], [A]).kind == "lifted"
    assert (
        turned(
            NOWHERE, Answer("failed", code="unknown_model"), [hot], [Verdict(node="a", filter=Filter.ROLE)]
        ).name
        == "role"
    )


def test_a_node_that_only_one_file_has() -> None:
    """It is removed, or added, by the rules."""
    assert turned(TO_A, TO_B, [A, B], [B]) == Term("filter", "removed", "a")
    assert turned(TO_A, TO_B, [A], [A, B]) == Term("lifted", "added", "b")


def test_the_same_node_later_is_a_matter_of_slots() -> None:
    """It has fewer free; with as many free it is a matter of order."""
    waits = Answer("deferred", "a", "busy")
    full = replace(A, free_slots=0)
    assert turned(TO_A, waits, [A], [full]) == Term("slots", "", "a", before=1, after=0)
    assert turned(TO_A, waits, [A], [A]).kind == "order"


def test_the_same_node_for_another_model() -> None:
    """What goes for it is a part of the answer; the term says what that costs others."""
    was, now = replace(A, evict_ms=7, evicts=("m",)), replace(A, evict_ms=8, evicts=("n",))
    found = turned(Answer("routed", "a", evicts=("m",)), Answer("routed", "a", evicts=("n",)), [was], [now])
    assert found == Term("cost", "evict", "a", before=7, after=8)
