"""Asking a log under other rules, as the tests do."""

from __future__ import annotations

from collections.abc import Sequence

from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.compare_decisions import Changed
from orion_streams.replay.rule_changes import Change, change_of
from orion_streams.replay.whatif import Outcome, WhatIf
from tests.replay.decided import Row, chunks, nothing, simulated

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
