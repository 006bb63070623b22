"""`orion requests` as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orion_streams.cli.request_names import shortest
from orion_streams.cli.requests_summary import Ended, RequestRow
from orion_streams.cli.tables import BAD, DIM, GOOD, ROOMY, WAITING, make_console, table
from orion_streams.gateway.page_words import short
from orion_streams.model.text import duration, percent

NAMES = {"waited_ms": "waited", "first_token_ms": "first token", "total_ms": "in all"}


def show(found: Ended, simulated: Sequence[str]) -> None:
    """Print what ended, and which nodes are simulated."""
    console = make_console()
    draw(console, found)
    if simulated:
        console.print(f"simulated: {', '.join(simulated)}", style=DIM)


def draw(console: Console, found: Ended) -> None:
    """Print the rows, and the figures of all that were asked for."""
    if found.requests:
        console.print(rows_table(found.requests, console.width >= ROOMY))
        console.print()
    console.print(outcomes(found))
    if not found.outcomes:
        return
    console.print()
    console.print(percentiles_table(found))
    if found.promises:
        kept = f"{found.promises_kept} of {found.promises}"
        share = percent(found.promises_kept * 1000 // found.promises)
        console.print(f"answered in the time that was promised: {kept} ({share})")


def rows_table(rows: Sequence[RequestRow], roomy: bool) -> Table:
    """Make the table of requests; where there is little room, with short names of nodes, ids and
    moments."""
    figures = ("WAITED", "LOADED", "FIRST", "RAN", "TOKENS")
    made = table(
        "ENDED", "REQUEST", "MODEL", "NODE", *figures, "OUTCOME",
        right=figures, whole=("ENDED", *figures),
    )  # fmt: skip
    of_one_day = len({clock(row.ended_ms).partition(" ")[0] for row in rows}) == 1
    keys = [f"{row.client}/{row.id}" for row in rows]
    names = {key: key for key in keys} if roomy else shortest(keys)
    for key, row in zip(keys, rows, strict=True):
        made.add_row(
            clock(row.ended_ms) if roomy else in_short(row.ended_ms, of_one_day),
            names[key],
            row.model,
            row.node if roomy else short(row.node),
            duration(row.waited_ms),
            duration(row.loaded_ms) if row.loaded_ms else "",
            duration(row.first_token_ms) if row.first_token_ms else "",
            duration(row.ran_ms) if row.ran_ms else "",
            str(row.tokens or ""),
            outcome(row),
        )
    return made


def outcome(row: RequestRow) -> Text:
    """Format how a request ended."""
    if row.outcome == "done":
        is_late = row.kept_promise is False
        return Text("done, late" if is_late else "done", style=WAITING if is_late else GOOD)
    if row.outcome == "cancelled":
        return Text("cancelled", style=DIM)
    return Text(row.code or row.outcome, style=BAD)


def outcomes(found: Ended) -> str:
    """Say how many ended, since when."""
    total = sum(found.outcomes.values())
    since = f"since {clock(found.since_ms)}" if found.since_ms else "in this log"
    if not total:
        return f"no such request has ended {since}"
    counts = ", ".join(f"{count} {state}" for state, count in found.outcomes.items())
    left_out = f"; {len(found.requests)} of them are shown" if len(found.requests) < total else ""
    return f"{total} ended {since}: {counts}{left_out}"


def percentiles_table(found: Ended) -> Table:
    """Make the table of percentiles."""
    made = table("", "P50", "P90", "P99", right=("P50", "P90", "P99"))
    for key, name in NAMES.items():
        row = found.percentiles[key]
        made.add_row(name, *("" if ms is None else duration(ms) for ms in (row.p50, row.p90, row.p99)))
    return made


def in_short(ms: int, of_one_day: bool) -> str:
    """Format a moment where there is little room: as a time of day, if all are of one day."""
    return datetime.fromtimestamp(ms / 1000).strftime("%H:%M:%S" if of_one_day else "%m-%d %H:%M")


def clock(ms: int) -> str:
    """Format a moment."""
    return datetime.fromtimestamp(ms / 1000).isoformat(" ", "seconds")
