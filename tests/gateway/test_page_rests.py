"""A node that rests, on the page, in the state and in the alerts: nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.gateway import grid_state
from orion_streams.gateway.view_models import node_rows
from orion_streams.model.state import Node, Rest
from orion_streams.model.vocabulary import WaitKind
from tests.gateway.test_page_view import seen
from tests.grids import AT_MS, grid, node, request

AFTER_MS = 600_000


def resting(name: str, for_ms: int = 0, **values: Any) -> Node:
    """A node that was drained nine seconds ago."""
    return node(name, rest=Rest("cli", AT_MS - 9_000, for_ms), **values)


def quiet(name: str) -> Node:
    """A node in its quiet hours: it is 00:16."""
    row = node(name)
    return replace(row, rules=replace(row.rules, quiet="22:00-07:00"))


@pytest.mark.parametrize(
    ("row", "why", "until"),
    [
        (resting("one"), "rests, drained by cli", "goes on once somebody resumes it: orion resume one"),
        (resting("one", 7_200_000), "rests for 2 h, drained by cli", "goes on in 120 min"),
        (resting("one", heard_ms=AT_MS - 9_000), "rests, drained by cli", "goes on once somebody"),
        (resting("one", left=True, leaving=True), "rests, drained by cli", "goes on once somebody"),
        (quiet("one"), "has quiet hours until 07:00", "goes on by itself then"),
    ],
)
def test_a_card_says_who_wants_it_so(row: Node, why: str, until: str) -> None:
    """In the colour of what is well, whether the node is heard or not."""
    [found] = seen(grid(row, position=1)).nodes
    assert (found.tone, found.why) == ("ok", why)
    assert found.until.startswith(until)


def test_a_card_says_since_when_it_rests() -> None:
    """By the server's clock."""
    [found] = seen(grid(resting("one"), position=1)).nodes
    assert found.since_ms == AT_MS - 9_000


@pytest.mark.parametrize(
    ("nodes", "tone", "sentence"),
    [
        ((node("one"), resting("two", 7_200_000)), "ok", "Two rests for 2 h, drained by cli"),
        ((node("one"), quiet("two")), "ok", "Two has quiet hours until 07:00"),
        (
            (node("one"), resting("two"), node("x", heard_ms=None)),
            "bad",
            "X never heard from and two rests",
        ),
        ((resting("one"),), "bad", "Nobody answers: one rests, drained by cli"),
    ],
)
def test_the_sentence_names_it(nodes: tuple[Node, ...], tone: str, sentence: str) -> None:
    """After what is wrong; bad only where nobody answers."""
    found = seen(grid(*nodes, position=1))
    assert found.tone == tone
    assert found.sentence.startswith(sentence)


@pytest.mark.parametrize("row", [resting("two"), quiet("two"), resting("two", heard_ms=None)])
def test_a_planned_absence_is_no_trouble(row: Node) -> None:
    """The house is well while another node answers, and down when none does, for that reason. The control:
    one that is silent unasked."""
    well = grid_state.health(grid(node("one"), row, position=1), 0)
    assert (well.status, well.reasons) == (grid_state.OK, [])
    alone = grid_state.health(grid(row, position=1), 0)
    assert alone.status == grid_state.DOWN
    assert alone.reasons[0].startswith("two: ")
    away = grid_state.health(grid(node("one"), node("two", heard_ms=None), position=1), 0)
    assert away.status == grid_state.DEGRADED


def test_the_state_names_the_operator() -> None:
    """As /orion/v1/state tells it."""
    rows = {row.node: row for row in node_rows(grid(node("one"), resting("two", 60_000)))}
    assert (rows["two"].state, rows["two"].limit, rows["two"].drained_by) == ("drained", 60_000, "cli")
    assert (rows["one"].state, rows["one"].drained_by) == ("available", "")


def test_a_request_says_that_it_waits_for_the_morning() -> None:
    """And for how long, by the clock as it is."""
    waits = {"brain/q": request(deferred=WaitKind.NO_NODE)}
    [lozenge] = seen(grid(quiet("one"), open_requests=waits, position=1)).queue
    assert (lozenge.waits_for, lozenge.eta_ms) == ("quiet", (7 * 60 - 16) * 60_000 - 45_000)
    assert lozenge.why == "waits until quiet hours end, in about 403 min"
