"""Many runs: a seed each, on all cores, and one report, the same whatever the number of processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from orion_streams.simulation.process_pool import spread
from tests.cluster.cluster_faults import swarm
from tests.cluster.one_run import Run, run_one

RUN_REQUESTS = 2_000
"""Requests of one run: a failure is to be small."""


class Job(Struct, frozen=True):
    """A run to be made."""

    seed: int
    requests: int
    faults: frozenset[str]


class Broken(Struct, frozen=True):
    """An invariant that broke, where, and the command that shows it again."""

    invariant: str
    what: str
    seed: int
    command: str


class Report(Struct):
    """The sum of all runs. Everything but `requests` to `answered`, and what faults bring about by
    themselves, is to be zero: `lost`, `duplicate_replies`, `duplicate_dispatches`, `log_gaps`, `diverged`.
    `tail_repeats` and `repeated_generations` come with a server that loses its tail."""

    requests: int = 0
    runs: int = 0
    answered: int = 0
    replies: dict[str, int] = {}
    faults: dict[str, int] = {}
    lost: int = 0
    duplicate_replies: int = 0
    duplicate_dispatches: int = 0
    log_gaps: int = 0
    diverged: int = 0
    tail_repeats: int = 0
    repeated_generations: int = 0
    recoveries: int = 0
    refusals: int = 0
    events: int = 0
    commits: int = 0
    virtual_s: int = 0
    broken: list[Broken] = []

    def add(self, run: Run) -> None:
        """Add a run."""
        found = run.found
        self.requests += run.requests
        self.runs += 1
        self.answered += found.answered
        self.replies = dict(sorted((Counter(self.replies) + Counter(found.kinds)).items()))
        self.faults = dict(sorted((Counter(self.faults) + Counter(run.faults)).items()))
        self.virtual_s += run.virtual_ms // 1000
        for name in ("lost", "duplicate_replies", "duplicate_dispatches", "log_gaps", "diverged"):
            setattr(self, name, getattr(self, name) + getattr(found, name))
        self.repeated_generations += found.repeated_generations
        for name in ("tail_repeats", "recoveries", "refusals", "events", "commits"):
            setattr(self, name, getattr(self, name) + getattr(run, name))


def jobs(requests: int, seed: int, only: frozenset[str] | None) -> list[Job]:
    """Plan runs with seeds in a row; the seed chooses the faults, unless `only` names them."""
    return [
        Job(seed + n, min(RUN_REQUESTS, requests - begun), swarm(seed + n) if only is None else only)
        for n, begun in enumerate(range(0, requests, RUN_REQUESTS))
    ]


def run_job(job: Job) -> Run:
    """Make a run."""
    return run_one(job.seed, job.requests, job.faults)


def run_all(work: Sequence[Job], processes: int = 0) -> Iterator[Run]:
    """Make all runs on every core (0), or on so many; yield them in their order."""
    return spread(run_job, work, processes)


def command_of(job: Job) -> str:
    """Return the command that shows this run again."""
    only = ",".join(sorted(job.faults)) or "none"
    return f"orion simulate --faults --requests {job.requests} --seed {job.seed} --only {only}"


def reported(runs: Iterable[Run]) -> Report:
    """Sum up runs."""
    report = Report()
    for run in runs:
        report.add(run)
    return report
