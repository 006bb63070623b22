"""What is said of a request that waits for nodes at rest, wherever it is told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orion_streams.cli.request_story import story_of
from orion_streams.cli.story_view import deadline
from orion_streams.cli.whatif_words import waiting
from orion_streams.gateway.page_words import decision
from orion_streams.model import events as ev
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, WaitKind
from orion_streams.replay.explain_change import Answer
from orion_streams.replay.incident_facts import Delay, Moment
from orion_streams.replay.request_words import PARTS, of_delay
from tests.grids import AT_MS, MEMORY, MODEL, grid, node, request

HELD = {WaitKind.QUIET: Filter.QUIET, WaitKind.DRAINED: Filter.DRAINED, WaitKind.NO_NODE: Filter.STALE}


@pytest.mark.parametrize(
    ("kind", "level", "page", "whatif"),
    [
        (WaitKind.QUIET, "ok", "waits until quiet hours end", "for quiet hours to end"),
        (WaitKind.DRAINED, "ok", "waits for a node that was drained", "for a drained node"),
        (WaitKind.NO_NODE, "warn", "no node takes it", "with no node to take it"),
    ],
)
def test_each_kind_has_its_words(kind: WaitKind, level: str, page: str, whatif: str) -> None:
    """On the page, where what was meant is no warning; in what-if; and in a report, with what kept each."""
    line = decision(ev.RequestDeferred("brain/q", kind), "brain", MODEL)
    assert line is not None
    assert (line[0], page in line[1]) == (level, True)
    assert waiting(Answer("deferred", "", kind)) == whatif
    held = (Verdict(node="n", filter=HELD[kind], value=60, limit=120),)
    said = of_delay(Delay(begin=Moment(0, 1), end=Moment(9_000, 2), kind=kind, held=held))
    assert "with no node to take it (n " in said
    assert kind in PARTS


def test_explain_says_that_time_stands_still() -> None:
    """Until when, and what is left then; at noon it says when it expires."""
    row = node("n", resident=MEMORY)
    row = replace(row, rules=replace(row.rules, quiet="22:00-07:00"))
    asked = {"brain/q": request(deadline_ms=AT_MS + 600_000)}
    night = replace(grid(row, open_requests=asked), server_ms=23 * 3_600_000)
    assert (
        deadline(story_of("brain/q", [], night)) == ": quiet hours end in 8 h, and then it has 10 min left"
    )
    noon = replace(night, server_ms=12 * 3_600_000)
    assert deadline(story_of("brain/q", [], noon)) == "; it expires in 10 min"
