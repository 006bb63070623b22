"""Logs of an older version are read and told; who takes one over agrees with its replay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams.eventlog.jsonl import read
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.projections import evolve
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.golden.record import FOLDER
from tests.golden.telling import judged, telling

OLD = sorted(FOLDER.glob("decider-*/*.jsonl.gz"))


@pytest.mark.parametrize(
    "path", OLD, ids=lambda path: f"{path.parent.name}-{path.name.partition(chr(46))[0]}"
)
def test_an_old_log_is_read_and_not_judged(path: Path) -> None:
    """Its decisions are told from the verdicts that they hold, and counted under their version."""
    report = asyncio.run(judged(path)).report
    assert (report.diverged, report.decisions, report.snapshots) == (0, 0, 0)
    wrote = int(path.parent.name.removeprefix("decider-"))
    assert (report.older > 10, report.older_deciders) == (True, [wrote])
    assert telling(path).count(" request.routed ") > 5


def taken_over(state: LoggedGrid, **values: object) -> Grid:
    """The grid after this version has put itself into force, under the rules that hold."""
    grid = state.grid
    rules = tuple(node.rules for node in grid.nodes.values())
    upgrade = ev.PolicyChanged(grid.revision, "p", grid.policy, rules, grid.models, decider=DECIDER)
    return evolve(grid, structs.replace(upgrade, **values))


def both_ways(path: Path) -> list[tuple[LoggedGrid, LoggedGrid]]:
    """The state at each snapshot of a log, as the old code wrote it and as this code folds it."""
    folded, found = LoggedGrid(Grid()), []
    for stretch in read(path):
        written = stretch.state() if stretch.header is not None and stretch.header.snapshot else None
        if written is not None and folded.grid.position:
            assert written.grid.position == folded.grid.position
            found.append((written, LoggedGrid(folded.grid.copy())))
        folded = written if written is not None and not folded.grid.position else folded
        fold_raw(folded, stretch.rows)
    return found


def test_who_takes_an_old_log_over_knows_what_its_replay_finds() -> None:
    """From an old snapshot, or folded anew from the first entry: after the event that puts this version
    into force the state is the same. The controls: before it the two are not, and an event that names the
    old version does not make them so."""
    pairs = [pair for path in OLD for pair in both_ways(path)]
    assert len(pairs) >= 4
    for written, folded in pairs:
        assert encode_grid(taken_over(written)) == encode_grid(taken_over(folded))
    assert any(encode_grid(written.grid) != encode_grid(folded.grid) for written, folded in pairs)
    assert any(
        encode_grid(taken_over(written, decider=2)) != encode_grid(taken_over(folded, decider=2))
        for written, folded in pairs
    )
