"""The whole cluster under faults: thousands of requests, everything holds; a seed gives the same run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.cluster.cluster_faults import KINDS, swarm
from tests.cluster.one_run import run_one
from tests.cluster.run_cluster import Job, command_of, jobs, reported, run_all

ROOT = Path(__file__).parents[2]
ZEROS = ("lost", "duplicate_replies", "duplicate_dispatches", "log_gaps", "diverged")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("count", "seed"), [(5_000, 19), pytest.param(20_000, 1, marks=pytest.mark.everything)]
)
def test_thousands_of_requests_under_faults(count: int, seed: int) -> None:
    """Every request gets its one end, every invariant holds, and every kind of fault happens."""
    work = jobs(count, seed, None)
    runs = list(run_all(work))
    broken = {command_of(job): run.found.broken for job, run in zip(work, runs, strict=True)}
    assert {command: what for command, what in broken.items() if what} == {}
    report = reported(runs)
    assert {name: getattr(report, name) for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert report.requests == report.answered == count
    assert set(report.faults) == set(KINDS)
    assert report.replies.keys() == {"done", "error", "expired", "cancelled", "rejected"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_happens_and_breaks_nothing(kind: str) -> None:
    """One kind of fault alone: of these seeds, up to the first with which it happens, every invariant
    holds."""
    for seed in (1, 2, 4):
        run = run_one(seed, 300, frozenset({kind}))
        assert run.found.broken == {}
        assert run.faults.keys() <= {kind}
        if run.faults:
            return
    pytest.fail("it never happens")


def test_tails_that_no_server_lost_are_never_repeated() -> None:
    """Without a lost tail no client hears an end twice, and no attempt begins twice."""
    for seed in range(1, 6):
        run = run_one(seed, 200, frozenset(KINDS) - {"lost_tail"})
        assert (run.tail_repeats, run.found.repeated_generations, run.found.broken) == (0, 0, {})


def test_a_lost_tail_is_counted() -> None:
    """With a lost tail clients do hear ends twice: the counter counts."""
    runs = [run_one(seed, 300, frozenset({"lost_tail"})) for seed in range(1, 5)]
    assert sum(run.tail_repeats for run in runs) > 0


SCRIPT = """
import hashlib, msgspec
from tests.cluster.one_run import run_one
from tests.cluster.cluster_faults import KINDS
print(hashlib.sha256(msgspec.json.encode(run_one(4711, 300, frozenset(KINDS)))).hexdigest())
"""


def test_a_seed_gives_the_same_bytes_in_every_process() -> None:
    """With all faults at once, and whatever Python's hash order: the same log, counts and times."""
    here = run_one(4711, 300, frozenset(KINDS))
    expected = hashlib.sha256(msgspec.json.encode(here)).hexdigest()
    assert len(here.log_digest) == 32
    env = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == expected


def test_the_report_does_not_depend_on_the_number_of_processes() -> None:
    """One process or two: the same report."""
    work = [Job(seed, 30, swarm(seed)) for seed in range(1, 9)]
    one, two = (reported(run_all(work, processes)) for processes in (1, 2))
    assert one == two
    assert one.requests == 240


def test_other_seeds_are_other_runs() -> None:
    """Two seeds differ in what happens."""
    assert run_one(1, 60, frozenset()).log_digest != run_one(2, 60, frozenset()).log_digest
