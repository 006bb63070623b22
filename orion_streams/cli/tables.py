"""The reads as tables in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orion_streams.cli.rows import ModelRow, NodeRow, PsRows, RequestRow, ResidentRow
from orion_streams.config import Config

GOOD, WAITING, BAD, DIM = "green", "yellow", "red", "dim"
PIPED_WIDTH = 160


def show(what: str, found: Any, config: Config) -> None:
    """Print one of the reads."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    match what:
        case "nodes":
            console.print(nodes_table(found, config))
        case "models":
            console.print(models_table(found))
        case _:
            show_ps(console, found)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A plain table."""
    made = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def nodes_table(found: list[NodeRow], config: Config) -> Table:
    """`orion nodes`."""
    made = table(
        "NODE", "STATE", "TEMP", "RAM", "CPU", "SLOTS", "IN MEMORY", "HEARD", "ROLE",
        right=("TEMP", "RAM", "CPU", "SLOTS", "HEARD"),
    )  # fmt: skip
    for row in found:
        heard = row.heard_ms_ago is not None
        here = config.nodes.get(row.node)
        simulated = " (simulated)" if here is not None and here.simulated else ""
        made.add_row(
            row.node,
            node_state(row),
            degrees(row.temp_mc) if heard else "",
            f"{gigabytes(row.ram_used_mb)} of {gigabytes(row.ram_total_mb)} GB" if heard else "",
            f"{row.cpu_permille / 10:.0f} %" if heard else "",
            f"{row.in_hand} of {row.slots}" if row.inference else "",
            ", ".join(row.resident),
            f"{seconds(row.heard_ms_ago)} ago" if row.heard_ms_ago is not None else "never",
            Text((here.role if here is not None else "") + simulated, style=DIM),
        )
    return made


def node_state(row: NodeRow) -> Text:
    """The state with its numbers: "hot: 76.1 °C > 75.0 °C"."""
    match row.state:
        case "available":
            return Text("available", style=GOOD)
        case "no_inference":
            return Text("no inference", style=DIM)
        case "hot":
            return Text(f"hot: {against(row, degrees)}", style=BAD)
        case "ram":
            return Text(f"ram: {against(row, percent)}", style=BAD)
        case "stale":
            return Text(f"stale: {seconds(row.value)}", style=BAD)
        case other:
            return Text(other.replace("_", " "), style=BAD)


def against(row: NodeRow, unit: Callable[[int], str]) -> str:
    """A value and the mark that it is measured by."""
    if row.value > row.limit:
        return f"{unit(row.value)} > {unit(row.limit)}"
    return f"{unit(row.value)}, soon back"


def models_table(found: list[ModelRow]) -> Table:
    """`orion models`."""
    made = table(
        "MODEL", "NODE", "ON DISK", "IN MEMORY", "CONTEXT", "DIGEST",
        right=("ON DISK", "IN MEMORY", "CONTEXT"),
    )  # fmt: skip
    for row in found:
        made.add_row(
            row.model,
            row.node,
            f"{row.size_mb} MB" if row.installed else Text("no", style=WAITING),
            Text(f"{row.resident_mb} MB", style=GOOD) if row.resident else "",
            str(row.context_length or ""),
            Text(row.digest.removeprefix("sha256:")[:12], style=DIM),
        )
    return made


def show_ps(console: Console, found: PsRows) -> None:
    """`orion ps`."""
    if found.requests:
        console.print(requests_table(found.requests))
    else:
        console.print("no open request", style=DIM)
    if found.resident:
        console.print()
        console.print(resident_table(found.resident))


def requests_table(found: list[RequestRow]) -> Table:
    """Open requests."""
    made = table("CLIENT", "ID", "MODEL", "STATE", "NODE", "ATTEMPT", "AGE", right=("ATTEMPT", "AGE"))
    for row in found:
        style = GOOD if row.state == "running" else WAITING
        state = Text(row.state if row.node else waiting(row), style=style)
        made.add_row(
            row.client, row.id, row.model, state, row.node, str(row.attempt or ""), seconds(row.age_ms)
        )
    return made


def waiting(row: RequestRow) -> str:
    """What it waits for: a busy node, or any node at all."""
    if row.waiting_for:
        return f"waiting for {row.waiting_for}"
    why = ", ".join(f"{node}: {reason}" for node, reason in row.reasons.items() if reason != "role")
    return f"waiting: {why}" if why else "waiting"


def resident_table(found: list[ResidentRow]) -> Table:
    """Models in memory."""
    made = table("NODE", "IN MEMORY", "SIZE", "CONTEXT", "RUNNING", right=("SIZE", "CONTEXT", "RUNNING"))
    for row in found:
        size = f"{row.resident_mb} MB"
        made.add_row(row.node, row.model, size, str(row.context_length or ""), str(row.running or ""))
    return made


def degrees(temp_mc: int | None) -> str:
    """Milli-degrees for a person."""
    return "no sensor" if temp_mc is None else f"{temp_mc / 1000:.1f} °C"


def percent(permille: int) -> str:
    """Thousandths for a person."""
    return f"{permille / 10:.1f} %"


def gigabytes(megabytes: int) -> str:
    """MB for a person."""
    return f"{megabytes / 1000:.1f}"


def seconds(ms: int) -> str:
    """A duration for a person."""
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms // 1000} s" if ms < 600_000 else f"{ms // 60_000} min"
