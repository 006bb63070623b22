"""What the benchmark prints: its progress on stderr, its table on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from orion_streams.bench.bench_rows import GOALS, Row


def say(line: str) -> None:
    """Write a line of progress to stderr."""
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


def show(rows: Sequence[Row], floors: str) -> None:
    """Print the table, and what its floors are."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for title in ("FIGURE", "VALUE", "UNIT", "FLOOR", "RATIO", "GOAL", ""):
        table.add_column(title, justify="right" if title in ("VALUE", "FLOOR", "RATIO") else "left")
    for row in rows:
        goal = GOALS.get(row.name)
        colour = {"pass": "green", "over": "red"}.get(row.verdict, "")
        table.add_row(
            row.name,
            f"{row.value:,}",
            row.unit,
            f"{row.floor:,}" if row.floor is not None else "",
            f"{row.ratio:g}" if row.ratio is not None else "",
            str(goal or ""),
            f"[{colour}]{row.verdict}[/]" if colour else "",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(floors, soft_wrap=True)
