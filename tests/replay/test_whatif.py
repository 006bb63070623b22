"""A log under the rules that it had, and what is no log or no change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.errors import LogError
from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.snapshot import encode_grid
from orion_streams.replay.rule_changes import change_of
from orion_streams.replay.whatif import WhatIf
from tests.cluster.cluster_faults import swarm
from tests.cluster.cluster_grid import Cluster
from tests.cluster.one_run import run_to_rest, undisturbed
from tests.properties import histories
from tests.properties.strategies import FEW
from tests.replay.books import Book
from tests.replay.decided import chained, chunks, nothing
from tests.replay.questions import AS_IT_WAS, asked, wide


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
        run_to_rest(cluster)
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
    events = [event_codec.decode(raw) for _, raw in wide()]
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
    events = [event_codec.decode(raw) for _, raw in wide()]
    outcome = asked(chained(events, decider=1), change_of([], ["orion-worker"]))
    assert outcome.older > 60 and not outcome.decisions and not any(outcome.asked.values())
    assert asked(chained(events), change_of([], ["orion-worker"])).older == 0


def test_a_log_that_was_changed_is_refused() -> None:
    """The running hash tells."""
    rows = wide()
    rows[20] = (rows[20][0], rows[20][1].replace(b"1", b"2", 1))
    with pytest.raises(LogError):
        asked(rows, AS_IT_WAS)
