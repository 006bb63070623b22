"""`orion simulate --faults`: the simulated cluster under faults. Data on stdout, the rest on stderr."""

from __future__ import annotations

from orion_streams.cli.outcome import tell, write_json
from orion_streams.cli.simulate_command import check, progress
from orion_streams.cli.tables import make_console, table
from orion_streams.errors import EXIT_FAILED, EXIT_OK
from tests.cluster.cluster_faults import KINDS
from tests.cluster.run_cluster import Broken, Job, Report, command_of, jobs, run_all, run_job
from tests.cluster.shrink import Shrinker

REQUESTS = 200_000
MOST_SHRUNK = 3
"""Of the invariants that broke, so many are shrunk; the others are named with the run that showed them."""
ZEROS = ("lost", "duplicate_replies", "duplicate_dispatches", "log_gaps", "diverged")


def run(*, requests: int | None, seed: int, only: str | None, as_json: bool) -> int:
    """Run it and show it. Return the exit code: failed where an invariant broke."""
    work = jobs(requests or REQUESTS, seed, chosen(only))
    report, broken = Report(), dict[str, tuple[Job, str]]()
    with progress(len(work), "runs") as advance:
        for done, (job, each) in enumerate(zip(work, run_all(work), strict=True), start=1):
            report.add(each)
            for invariant, what in each.found.broken.items():
                broken.setdefault(invariant, (job, what))
            advance(done)
    for number, (invariant, (job, what)) in enumerate(broken.items()):
        smallest = shrunk(invariant, job) if number < MOST_SHRUNK else job
        report.broken.append(Broken(invariant, what, smallest.seed, command_of(smallest)))
    if as_json:
        write_json(report)
    else:
        show(report)
    for row in report.broken:
        tell(f"orion: {row.invariant} broke: {row.what}\n  again: {row.command}")
    return EXIT_FAILED if report.broken else EXIT_OK


def chosen(only: str | None) -> frozenset[str] | None:
    """Read the faults that --only names, "none" for none; without --only return None."""
    if only is None:
        return None
    names = [name.strip() for name in only.split(",")] if only != "none" else []
    for name in names:
        check("--only", name, KINDS)
    return frozenset(names)


def shrunk(invariant: str, job: Job) -> Job:
    """Find a small run that breaks the invariant."""
    tell(f"orion: {invariant} broke with seed {job.seed}: looking for a smaller run")
    return Shrinker(lambda each: invariant in run_job(each).found.broken).shrink(job)


def show(report: Report) -> None:
    """Print the counts, and the faults behind them."""
    console = make_console()
    console.print(
        f"SIMULATED: {report.requests:,} requests in {report.runs:,} runs, {report.virtual_s:,} s of "
        f"virtual time, {report.events:,} events in {report.commits:,} commits"
    )
    counts = table("COUNT", "", right=("",))
    for name in ("answered", *ZEROS, "tail_repeats", "repeated_generations", "recoveries", "refusals"):
        counts.add_row(name, f"{getattr(report, name):,}")
    for kind, count in report.replies.items():
        counts.add_row(f"replies: {kind}", f"{count:,}")
    console.print(counts)
    faults = table("FAULT", "HAPPENED", right=("HAPPENED",))
    for name, count in report.faults.items():
        faults.add_row(name, f"{count:,}")
    console.print(faults)
    console.print("every invariant held" if not report.broken else f"{len(report.broken)} invariants BROKE")
