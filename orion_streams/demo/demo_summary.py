"""Summarize the demo: counts of the observer, figures of the log, and the promises."""

from __future__ import annotations

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from orion_streams.demo.demo_story import MASTER, WORKER, Story
from orion_streams.demo.observer import Tally
from orion_streams.environment import command
from orion_streams.model import events as ev
from orion_streams.replay.verify import Report

EDGE = "orion-edge"


class Summary(Struct):
    """The keys of `orion demo --json`. `sticky_hits` and `cold_loads`: answers whose model was, or was not,
    in memory when they were routed."""

    engine: str
    requests: int
    answered: int
    lost: int
    duplicate_replies: int
    duplicate_dispatches: int
    by_node: dict[str, int]
    sticky_hits: int
    cold_loads: int
    rerouted: int
    backed_off: dict[str, str]
    returned: list[str]
    decisions: int
    diverged: int
    events: int
    seconds: float
    broken_promises: list[str]


def summarize(
    history: list[ev.AnyEvent], story: Story, tally: Tally, report: Report, seconds: float
) -> Summary:
    """Combine the counts and check the promises."""
    answers = [event for event in history if isinstance(event, ev.RequestCompleted)]
    summary = Summary(
        engine=", ".join(sorted({story.grid.engines[name] for name in (MASTER, WORKER)})),
        requests=tally.requests,
        answered=tally.answered,
        lost=tally.lost,
        duplicate_replies=tally.duplicate_replies,
        duplicate_dispatches=tally.duplicate_dispatches,
        by_node={name: tally.by_node.get(name, 0) for name in sorted(story.grid.nodes)},
        sticky_hits=sum(not event.cold for event in answers),
        cold_loads=sum(event.cold for event in answers),
        rerouted=tally.rerouted,
        backed_off={event.node: event.reason for event in history if isinstance(event, ev.NodeBackedOff)},
        returned=[event.node for event in history if isinstance(event, ev.NodeReturned)],
        decisions=report.decisions,
        diverged=report.diverged,
        events=report.events,
        seconds=round(seconds, 1),
        broken_promises=[],
    )
    summary.broken_promises = broken_promises(summary, tally.dispatched.get(EDGE, 0))
    return summary


def broken_promises(summary: Summary, edge_dispatches: int) -> list[str]:
    """List each promise that does not hold, as a sentence."""
    kept = {
        "every request was answered": summary.answered == summary.requests and summary.lost == 0,
        "no request was answered twice": summary.duplicate_replies == 0,
        "no attempt was dispatched twice": summary.duplicate_dispatches == 0,
        "every answer came from a node": sum(summary.by_node.values()) == summary.answered,
        "orion-edge got nothing": summary.by_node.get(EDGE, 0) == 0 and edge_dispatches == 0,
        "every recomputed decision equals the recorded one": summary.diverged == 0,
        "there were decisions to recompute": summary.decisions > 0,
        "orion-worker backed off from heat": summary.backed_off.get(WORKER) == "hot",
        "orion-master backed off from memory": summary.backed_off.get(MASTER) == "ram",
        "both came back": {WORKER, MASTER} <= set(summary.returned),
        "the killed agent's request was answered elsewhere": summary.rerouted > 0,
        "warm models were used": summary.sticky_hits > summary.cold_loads,
    }
    return [name for name, holds in kept.items() if not holds]


def show(summary: Summary) -> None:
    """Print the summary."""
    console = Console()
    table = Table(show_header=False, box=None, padding=(0, 2))
    split = ", ".join(f"{count} by {name}" for name, count in summary.by_node.items())
    table.add_row(
        "answered", f"{summary.answered} of {summary.requests} requests, each exactly once ({split})"
    )
    table.add_row("lost / twice", f"{summary.lost} / {summary.duplicate_replies}")
    table.add_row(
        "sticky",
        f"{summary.sticky_hits} answers found their model in memory, {summary.cold_loads} had to load it",
    )
    table.add_row("rerouted", f"{summary.rerouted} after a crash or a backoff, under a new attempt")
    reasons = ", ".join(f"{name} ({reason})" for name, reason in summary.backed_off.items())
    table.add_row("safety", f"backed off and came back: {reasons}")
    table.add_row(
        "replay",
        f"{summary.decisions} decisions recomputed from {summary.events} log events, "
        f"{summary.diverged} differ",
    )
    table.add_row("engine", f"{summary.engine}: nodes are SIMULATED; server, router and agents are real")
    table.add_row("time", f"{summary.seconds:.0f} s")
    console.print()
    console.print(table)
    for promise in summary.broken_promises:
        console.print(f"BROKEN PROMISE: not true that {promise}", style="bold red")
    if not summary.broken_promises:
        console.print(
            f"\nAll promises kept. Next: {command()} up --simulated and, beside it, {command()} ask",
            style="green",
        )
