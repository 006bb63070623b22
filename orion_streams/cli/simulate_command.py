"""`orion simulate`: one simulated run, or all policies against each other. Data go to stdout, everything
else to stderr; everything a person reads says that it is simulated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from orion_streams.cli.outcome import tell, write_json
from orion_streams.cli.tables import BAD, DIM, GOOD, WAITING, make_console, table
from orion_streams.errors import EXIT_FAILED, EXIT_OK
from orion_streams.simulation.baseline_policies import OURS, POLICIES
from orion_streams.simulation.compare_policies import (
    Goal,
    Medians,
    best_baseline,
    goals,
    medians,
    run_all,
    trials,
)
from orion_streams.simulation.run_workload import Trial, health_for, simulate
from orion_streams.simulation.simulation_results import Result
from orion_streams.simulation.workloads import REGIMES, WORKLOADS

REQUESTS = 350
LONG = 5_000
"""A single run of more requests shows its progress."""


class SimulateOptions(Struct, frozen=True, kw_only=True):
    """The options of `orion simulate`; None where one is not given. `seeds` counts with `compare` only."""

    compare: bool
    workload: str | None
    regime: str | None
    policy: str | None
    requests: int | None
    nodes: int
    seed: int
    seeds: int
    health_ms: int | None
    fifo: bool
    as_json: bool


def run(**given: Any) -> int:
    """Simulate as the options say and show the results. Return EXIT_FAILED if a request was rejected, which
    no policy may cause."""
    options = SimulateOptions(**given)
    check("--workload", options.workload, WORKLOADS)
    check("--regime", options.regime, REGIMES)
    check("--policy", options.policy, POLICIES)
    if options.compare and options.policy is not None:
        raise typer.BadParameter("--compare runs every policy: leave --policy out")
    trial = Trial(
        regime=options.regime or REGIMES[0],
        workload=options.workload or WORKLOADS[0],
        policy=options.policy or OURS,
        seed=options.seed,
        requests=options.requests or REQUESTS,
        nodes=options.nodes,
        health_ms=options.health_ms or 0,
        fifo=options.fifo,
    )
    results = compared(trial, options) if options.compare else [single(trial)]
    if options.as_json:
        write_json(results)
    elif options.compare:
        show_comparison(results, trial, options.seeds)
    else:
        show_single(results[0], trial)
    rejected = sum(each.rejected for each in results)
    if rejected:
        tell(f"orion: {rejected} simulated requests were not answered")
    return EXIT_FAILED if rejected else EXIT_OK


def check(option: str, given: str | None, known: Sequence[str]) -> None:
    """Raise a usage error that lists the known names if `given` is none of them."""
    if given is not None and given not in known:
        raise typer.BadParameter(f"{option}: no such name: {given} (known: {', '.join(known)})")


def single(trial: Trial) -> Result:
    """Run one trial; show progress if it has more than LONG requests."""
    with progress(trial.requests if trial.requests > LONG else 0, "requests") as advance:
        return simulate(trial, advance)


def compared(trial: Trial, options: SimulateOptions) -> list[Result]:
    """Run every policy on the same traces, in the chosen regime and workload or in all."""
    regimes = (options.regime,) if options.regime else REGIMES
    workloads = (options.workload,) if options.workload else WORKLOADS
    work = trials(trial, regimes, workloads, range(trial.seed, trial.seed + options.seeds))
    results: list[Result] = []
    with progress(len(work), "runs") as advance:
        for each in run_all(work):
            results.append(each)
            advance(len(results))
    return results


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal, else a line per tenth; nothing if `total` is 0."""
    if not total:
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        yield lines(total, what)
        return
    columns = (
        TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn(what),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def lines(total: int, what: str) -> Callable[[int], None]:
    """Return a function that writes a line for every tenth."""
    shown = 0

    def advance(done: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            tell(f"simulating: {done:,} of {total:,} {what}")

    return advance


def show_single(result: Result, trial: Trial) -> None:
    """Print the figures of one run."""
    made = table("FIGURE", "VALUE", right=("VALUE",))
    rows = (
        ("answered", f"{trial.requests - result.rejected:,} of {trial.requests:,}"),
        ("time to answer, p50", seconds(result.p50_ms)),
        ("time to answer, p95", seconds(result.p95_ms)),
        ("time to answer, longest", seconds(result.max_ms)),
        ("cold loads", f"{result.cold_loads:,}"),
        ("above 75 °C, all nodes", seconds(result.hot_ms)),
    )
    for name, value in rows:
        made.add_row(name, value)
    console = make_console()
    console.print(
        f"SIMULATED: {result.workload}, {result.regime}, policy {result.policy}, {trial.nodes} nodes, "
        f"seed {result.seed}, health every {(trial.health_ms or health_for(trial.requests)) / 1000:g} s",
        soft_wrap=True,
    )
    console.print(made)


def show_comparison(results: Sequence[Result], trial: Trial, seeds: int) -> None:
    """Print, for each regime, the p95 of each policy and whether ours meets its goals."""
    console = make_console()
    found = medians(results)
    over = "one seed" if seeds == 1 else f"median of {seeds} seeds"
    for regime in dict.fromkeys(each.regime for each in results):
        console.print(
            f"SIMULATED, {regime}: p95 time to answer in s, {over}, {trial.requests} requests, "
            f"{trial.nodes} nodes",
            soft_wrap=True,
        )
        rows = {workload: each for (of, workload), each in found.items() if of == regime}
        console.print(policy_table(rows))
        console.print()
        console.print(goal_table(regime, rows))
        console.print()
    console.print(
        "Goals compare ours with the baseline of the best p95 (underlined): p95, seconds above 75 °C, "
        "longest time to answer. Those in brackets are to strive for.",
        style=DIM,
        soft_wrap=True,
    )


def policy_table(rows: dict[str, Medians]) -> Table:
    """Make a table with a row per policy and a column per workload."""
    made = table("POLICY", *rows, right=tuple(rows))
    best = {workload: best_baseline(found) for workload, found in rows.items()}
    for name in POLICIES:
        cells = [
            Text(f"{found[name].p95_ms / 1000:,.0f}", style="underline" if name == best[workload] else "")
            for workload, found in rows.items()
        ]
        made.add_row(name, *cells)
    return made


def goal_table(regime: str, rows: dict[str, Medians]) -> Table:
    """Make a table with a row per goal and a column per workload."""
    made = table("GOAL OF OURS", *rows, right=tuple(rows))
    for same in zip(*(goals(regime, found) for found in rows.values()), strict=True):
        title = f"{same[0].name} {same[0].bound}"
        made.add_row(title if same[0].binding else f"({title})", *(goal_cell(each) for each in same))
    return made


def goal_cell(goal: Goal) -> Text:
    """Format the measured ratio and whether it meets the goal."""
    if goal.is_met:
        return Text(f"{goal.measured:.2f} {'pass' if goal.binding else 'met'}", style=GOOD)
    mark, style = ("OVER", BAD) if goal.binding else ("no", WAITING)
    return Text(f"{goal.measured:.2f} {mark}", style=style)


def seconds(ms: int) -> str:
    """Format a duration in seconds."""
    return f"{ms / 1000:,.1f} s"
