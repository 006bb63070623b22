"""A failure is made small: fewer faults, fewer requests, the same invariant."""

from __future__ import annotations

import json

import pytest

from orion_streams.cli import main
from orion_streams.protocol import admission
from tests.cluster.cluster_faults import KINDS
from tests.cluster.removing import without
from tests.cluster.run_cluster import Job
from tests.cluster.shrink import MOST_RUNS, Shrinker


def test_only_what_is_needed_stays() -> None:
    """A run that breaks for two faults and 37 requests is shrunk to just those."""
    needed = frozenset({"kill_agent", "lost_answer"})
    job = Job(7, 2_000, frozenset(KINDS))
    shrinker = Shrinker(lambda each: needed <= each.faults and each.requests >= 37)
    assert shrinker.shrink(job) == Job(7, 37, needed)
    assert shrinker.runs <= MOST_RUNS


def test_a_run_that_never_breaks_again_stays_as_it_is() -> None:
    """Where nothing smaller breaks, the run itself is the answer."""
    job = Job(7, 500, frozenset({"heat"}))
    assert Shrinker(lambda each: False).shrink(job) == job


def test_a_planted_bug_is_found_and_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With known ids unguarded the command names invariant, seed and a small run, which breaks the same;
    with the guard back that run holds."""
    part = "if key in grid.open or grid.find_closed(key) is not None:"
    with monkeypatch.context() as patch:
        without(patch, admission, "admit", part, "if False:")
        words = ["simulate", "--faults", "--requests", "300", "--seed", "4"]
        only = ["--only", "duplicate_write,late_resend,heat,cancel"]
        assert main([*words, *only, "--json"]) == 1
        out, err = capsys.readouterr()
        report = json.loads(out)
        [again] = {
            row["command"] for row in report["broken"] if row["invariant"] == "known_ids_start_nothing"
        }
        assert f"again: {again}" in err
        smaller = again.removeprefix("orion ").split()
        assert int(smaller[smaller.index("--requests") + 1]) < 100
        assert len(smaller[smaller.index("--only") + 1].split(",")) == 1
        assert smaller[smaller.index("--seed") + 1] == "4"
        assert main([*smaller, "--json"]) == 1
        names = {row["invariant"] for row in json.loads(capsys.readouterr().out)["broken"]}
        assert "known_ids_start_nothing" in names
    assert main([*smaller, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] == []
