"""The results of what-if as tables in the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orion_streams.cli.tables import DIM, WAITING, table
from orion_streams.cli.whatif_words import Told, told
from orion_streams.model.text import degrees, seconds
from orion_streams.replay.rule_changes import Change
from orion_streams.replay.whatif import NodeAway, Outcome
from orion_streams.simulation.rerun.collect_workload import Figures
from orion_streams.simulation.rerun.recorded_heat import Heat
from orion_streams.simulation.rerun.rerun_workload import Rerun, WhatIfResult

Part = Table | Text | Padding
WIDTH = 100
MOST = 12
"""How many groups of changed decisions are shown; --json has each decision."""
MOST_UNMEASURED = 6
KINDS = {
    "route": "requests sent to a node",
    "wait": "requests that wait",
    "end": "requests ended without an answer",
    "give_up": "attempts given up",
    "order": "models loaded or unloaded by order",
    "backoff": "nodes out by a mark, or back",
    "breaker": "breakers opened or closed",
}


def show(found: WhatIfResult, change: Change) -> None:
    """Print all parts of the screen."""
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    for part in page(found, change):
        console.print(part)


def page(found: WhatIfResult, change: Change) -> Iterator[Part]:
    """Yield all parts of the screen."""
    outcome = found.what_if
    yield Text(f"What if {asked(change)}: history as it was, each decision asked anew", style="bold")
    requests = f"{outcome.requests:,} requests, {outcome.requests_changed:,} of them decided otherwise"
    yield Text(f"{outcome.events:,} events, {requests}")
    if outcome.older:
        older = f"{outcome.older:,} decisions were made by another version of the code: folded, not judged"
        yield Text(older, style=WAITING)
    for note in outcome.notes:
        yield Text(note, style=WAITING)
    yield Text()
    yield counts(outcome)
    if outcome.nodes:
        yield Text()
        yield away_table(outcome.nodes)
    if outcome.decisions:
        yield Text()
        every = told(outcome.decisions)
        yield from sentences(every[:MOST])
        if len(every) > MOST:
            yield Text(f"… and {len(every) - MOST:,} more kinds of changes; --json has them all", style=DIM)
    if found.rerun is not None:
        yield Text()
        yield from simulated(found.rerun)


def asked(change: Change) -> str:
    """Describe the change in the terms of the command line."""
    parts = ["the rules were those of another file"] if change.file is not None else []
    parts += [f"{each.path} were {each.text.partition('=')[2].strip()}" for each in change.settings]
    parts += [f"{name} took no requests" for name in change.without]
    return ", and ".join(parts) or "nothing changed"


def counts(outcome: Outcome) -> Table:
    """Make the table of changed decisions by kind."""
    made = table("DECISIONS", "ASKED", "CHANGED", right=("ASKED", "CHANGED"))
    for kind, name in KINDS.items():
        changed = outcome.changed.get(kind, 0)
        made.add_row(
            name, f"{outcome.asked.get(kind, 0):,}", Text(f"{changed:,}", WAITING if changed else DIM)
        )
    return made


def away_table(rows: Sequence[NodeAway]) -> Table:
    """Make the table of how often and how long nodes are out by their marks."""
    right = ("BACKED OFF", "WOULD", "FOR", "WOULD BE FOR")
    made = table("NODE", *right, right=right)
    for each in rows:
        times = f"{each.recorded.times}", f"{each.would.times}"
        made.add_row(each.node, *times, seconds(each.recorded.ms), seconds(each.would.ms))
    return made


def sentences(rows: Sequence[Told]) -> Iterator[Part]:
    """Yield what would have been otherwise, and why."""
    for each in rows:
        yield Text(each.sentence)
        yield Padding(Text(each.examples, style=DIM), (0, 0, 0, 4), expand=False)


def simulated(found: Rerun) -> Iterator[Part]:
    """Yield the results of the simulator, and how far to trust them."""
    yield Text(
        f"SIMULATED: the same {found.requests:,} requests within {seconds(found.span_ms)}, on machines as "
        f"fast and full as the log shows them, health every {found.health_ms / 1000:g} s",
        style="bold",
    )
    yield Text(trust(found), style=WAITING)
    yield figures_table(found)
    for name, heat in found.heat.items():
        yield Text(f"{name}: {warming(heat)}", style=DIM if heat.fitted else WAITING)
    if found.unmeasured:
        names = [
            f"{each.what} of {each.model} on {each.node}" for each in found.unmeasured[:MOST_UNMEASURED]
        ]
        more = len(found.unmeasured) - len(names)
        rest = f" and {more} more" if more > 0 else ""
        yield Text(f"never measured, so as routing expects: {', '.join(names)}{rest}", style=WAITING)
    if found.open:
        yield Text(
            f"{found.open:,} requests have no end in the log: with answers of the usual length", style=DIM
        )


def figures_table(found: Rerun) -> Table:
    """Make the table of figures: recorded, simulated unchanged, simulated with the change."""
    columns = ("AS RECORDED", "SIMULATED AS IT WAS", "SIMULATED CHANGED", "CHANGE")
    made = table("FIGURE", *columns, right=columns)
    sides = (found.recorded, found.simulated_as_it_was, found.simulated_changed)
    for name, value in VALUES:
        cells = [value(each) for each in sides]
        made.add_row(name, *(seconds(ms) for ms in cells), change_in(cells[1], cells[2]))
    made.add_row(
        "above the mark, all nodes",
        *(f"{seconds(each.hot_ms)} > {degrees(each.mark_mc)}" for each in sides),
        "",
    )
    for name in ("cold loads", "answered", "expired", "failed", "cancelled"):
        numbers = [getattr(each, name.replace(" ", "_")) for each in sides]
        made.add_row(name, *(f"{n:,}" for n in numbers), f"{numbers[2] - numbers[1]:+,}")
    for node in sorted({name for each in sides for name in each.by_node}):
        numbers = [each.by_node.get(node, 0) for each in sides]
        made.add_row(f"answered by {node}", *(f"{n:,}" for n in numbers), f"{numbers[2] - numbers[1]:+,}")
    return made


VALUES: tuple[tuple[str, Callable[[Figures], int]], ...] = (
    ("time to answer, p50", lambda each: each.p50_ms),
    ("time to answer, p95", lambda each: each.p95_ms),
    ("time to answer, longest", lambda each: each.max_ms),
)


def change_in(before: int, after: int) -> str:
    """Format the change in per cent; empty if `before` is 0."""
    return f"{(after - before) * 100 / before:+.0f} %" if before else ""


def trust(found: Rerun) -> str:
    """Compare the simulator with the log, to show how far its figures can be trusted."""
    was, now = found.recorded, found.simulated_as_it_was
    parts = [
        f"{name} {seconds(value(now))} for {seconds(value(was))}{off(value(was), value(now))}"
        for name, value in (("p50", VALUES[0][1]), ("p95", VALUES[1][1]))
    ]
    parts.append(f"cold loads {now.cold_loads} for {was.cold_loads}")
    parts.append(f"time above the mark {seconds(now.hot_ms)} for {seconds(was.hot_ms)}")
    return f"how far to trust it: as it was, the simulator says {', '.join(parts)}"


def off(recorded: int, found: int) -> str:
    """Format the deviation of the simulator from the log."""
    return f" ({change_in(recorded, found)})" if recorded else ""


def warming(heat: Heat) -> str:
    """Describe the thermal model of a machine and where it comes from."""
    ambients = [mc for _, mc in heat.ambient]
    ambient = degrees(min(ambients)) + (f" to {degrees(max(ambients))}" if len(set(ambients)) > 1 else "")
    curve = f"at rest {ambient}, {degrees(heat.rise_mc)} more under load, time constant {heat.tau_s:.0f} s"
    if heat.fitted:
        return f"{curve}: fitted to {heat.points:,} temperatures, missing them by {degrees(heat.error_mc)}"
    return f"{curve}: the simulator's usual ones, as the log's {heat.points:,} temperatures show no better"
