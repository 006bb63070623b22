"""The result of `orion chaos`: the keys of --json, and the table for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from orion_streams.model.percentiles import percentile
from tests.chaos.chaos_faults import FAULTS
from tests.chaos.chaos_run import Counts, Round


class ChaosReport(Counts, kw_only=True):
    """The keys of `orion chaos --json`. `recovery_ms_*`: from the end of a fault to the next answer;
    `recovery_ms`: median and 95th percentile by fault. `broken`: promises that did not hold."""

    seed: int
    minutes: float
    servers: list[str]
    faults: dict[str, int]
    impossible: list[str]
    recovery_ms_p50: int | None
    recovery_ms_p95: int | None
    recovery_ms: dict[str, tuple[int | None, int | None]]
    longest_silence_ms: int
    codes: dict[str, int]
    http: dict[str, int]
    broken: list[str]


def summarize(seed: int, minutes: float, rounds: list[Round]) -> ChaosReport:
    """Add the rounds up."""
    recoveries = by_fault(rounds)
    p50, p95 = both([ms for times in recoveries.values() for ms in times])
    return ChaosReport(
        seed=seed,
        minutes=minutes,
        servers=[each.place for each in rounds],
        faults=added(each.faults for each in rounds),
        impossible=sorted({name for each in rounds for name in each.impossible}),
        recovery_ms_p50=p50,
        recovery_ms_p95=p95,
        recovery_ms={name: both(times) for name, times in sorted(recoveries.items())},
        longest_silence_ms=max((each.longest_silence_ms for each in rounds), default=0),
        codes=added(each.codes for each in rounds),
        http=added(each.http for each in rounds),
        broken=[f"{each.place}: {line}" for each in rounds for line in each.broken],
        **{name: sum(getattr(each, name) for each in rounds) for name in Counts.__struct_fields__},
    )


def by_fault(rounds: list[Round]) -> dict[str, list[int]]:
    """Collect all recovery times by fault."""
    found: dict[str, list[int]] = {}
    for each in rounds:
        for name, times in each.recovery_ms.items():
            found.setdefault(name, []).extend(times)
    return found


def both(times: list[int]) -> tuple[int | None, int | None]:
    """Return the median and the 95th percentile."""
    return (percentile(times, 500), percentile(times, 950)) if times else (None, None)


def added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add counts up by name."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def show(report: ChaosReport) -> None:
    """Print the result."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("fault", "times", "recovery p50", "p95", "the promise"):
        table.add_column(title, justify="left" if title in ("fault", "the promise") else "right")
    for fault in FAULTS:
        times = report.faults.get(fault.name, 0)
        p50, p95 = report.recovery_ms.get(fault.name, (None, None))
        if times or fault.name in report.impossible:
            table.add_row(
                fault.name,
                str(times) if times else "not here",
                in_seconds(p50),
                in_seconds(p95),
                fault.promise,
            )
    console.print(table)
    refused = report.requests - report.answered - report.lost
    p50, p95, silence = report.recovery_ms_p50, report.recovery_ms_p95, report.longest_silence_ms
    console.print(
        f"""
servers       {", ".join(report.servers)}; simulated Ollamas
requests      {report.requests} asked, {report.answered} ended, {refused} refused
kills         {report.kills} while requests were open
lost          {report.lost}
twice         {report.duplicate_replies} replies, {report.duplicate_dispatches} dispatches
repeated      {report.repeated_generations} generations, after a crash or a backoff
tail          {report.gone} acknowledged entries lost, {report.tail_repeats} ends dropped by clients
recovery      {in_seconds(p50)} (p50), {in_seconds(p95)} (p95); longest silence {in_seconds(silence)}
log           {report.log_gaps} gaps in {report.events} events
replay        {report.decisions} decisions recomputed, {report.diverged} differ""",
        soft_wrap=True,
    )
    for line in report.broken:
        console.print(f"BROKEN        {line}", soft_wrap=True, markup=False)


def in_seconds(ms: int | None) -> str:
    """Format a time in seconds."""
    return "-" if ms is None else f"{ms / 1000:.1f} s"
