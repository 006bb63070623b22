"""The reads as tables in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orion_streams.cli import plan_words
from orion_streams.cli.plan_rows import PlanRows
from orion_streams.config import Config
from orion_streams.environment import as_called
from orion_streams.gateway.view_models import ModelRow, NodeRow, PsRows, RequestRow, ResidentRow, pull_line
from orion_streams.model.text import degrees, gigabytes, percent, seconds, time_of_day

GOOD, WAITING, BAD, DIM = "green", "yellow", "red", "dim"
PIPED_WIDTH = 160
ROOMY = 110
"""The width from which less important columns are shown."""


def show(what: str, found: Any, config: Config) -> None:
    """Print one of the reads."""
    console = make_console()
    match what:
        case "nodes":
            roles = {name: node.role for name, node in config.nodes.items()}
            console.print(nodes_table(found, roles if console.width >= ROOMY else {}))
        case "models":
            console.print(models_table(found))
            for line in lacking(found, may_pull=bool(config.pull_from)):
                console.print(line, style=DIM)
        case "plan":
            show_plan(console, found)
        case _:
            show_ps(console, found)
    if config.simulated():
        console.print(f"simulated: {', '.join(config.simulated())}", style=DIM)


def make_console(stderr: bool = False) -> Console:
    """Return a console that prints the names of clients and models without interpreting them."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPED_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width, stderr=stderr)


def table(*columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """Make a plain table; the columns in `whole` never wrap."""
    made = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name in whole,
        )
    return made


def nodes_table(found: list[NodeRow], roles: Mapping[str, str]) -> Table:
    """Make the table of nodes, with their roles if there are any."""
    figures = ("TEMP", "RAM", "CPU", "SLOTS", "HEARD")
    made = table(
        "NODE", "STATE", "TEMP", "RAM", "CPU", "SLOTS", "IN MEMORY", "HEARD", *(["ROLE"] if roles else []),
        right=figures, whole=("NODE", *figures),
    )  # fmt: skip
    for row in found:
        heard = row.heard_ms_ago is not None
        made.add_row(
            row.node,
            node_state(row),
            degrees(row.temp_mc) if heard else "",
            f"{gigabytes(row.ram_used_mb)}/{gigabytes(row.ram_total_mb)} GB" if heard else "",
            f"{row.cpu_permille / 10:.0f} %" if heard else "",
            slots_of(row),
            "\n".join([*row.resident, *(f"{model} (loading)" for model in row.loading)]),
            f"{seconds(row.heard_ms_ago)}" if row.heard_ms_ago is not None else "never",
            *([Text(roles.get(row.node, ""), style=DIM)] if roles else []),
        )
    return made


def slots_of(row: NodeRow) -> str:
    """Format the runs of a node and how many it may run now."""
    if not row.inference:
        return ""
    return f"{row.in_hand} of {row.open_slots}" if row.open_slots else f"{row.in_hand}, no more"


def node_state(row: NodeRow) -> Text:
    """Format the state with its figures: "hot: 76.1 °C > 75.0 °C"."""
    match row.state:
        case "available":
            return available(row)
        case "no_inference":
            return Text("no inference", style=DIM)
        case "drained":
            left = f", {seconds(max(row.limit - row.value, 0))} left" if row.limit else ""
            return Text(f"drained by {row.drained_by}{left}", style=WAITING)
        case "quiet":
            return Text(f"quiet until {time_of_day(row.limit)}", style=WAITING)
        case "left" | "leaving":
            return Text(row.state, style=WAITING)
        case "hot":
            return Text(f"hot: {against(row, degrees)}", style=BAD)
        case "ram":
            return Text(f"ram: {against(row, percent)}", style=BAD)
        case "stale":
            return Text(f"stale: {seconds(row.value)}", style=BAD)
        case "breaker":
            return Text(f"breaker: open, {seconds(row.breaker_left_ms)} left", style=BAD)
        case "too_large" | "memory":
            what = "too small" if row.state == "too_large" else "no room"
            return Text(f"{what}: {row.value} MB > {row.limit} MB", style=BAD)
        case other:
            return Text(other.replace("_", " "), style=BAD)


def available(row: NodeRow) -> Text:
    """Format an available node with what still limits it."""
    if row.breaker == "probing":
        return Text("available: breaker probing", style=WAITING)
    if row.breaker == "ramp":
        return Text("available: slots reopening", style=WAITING)
    if not row.derated or row.temp_mc is None or row.forecast_mc is None:
        return Text("available", style=GOOD)
    rising = f"rising to {degrees(row.forecast_mc)}" if row.forecast_mc > row.temp_mc else "near the mark"
    return Text(f"available: {rising}", style=WAITING)


def against(row: NodeRow, unit: Callable[[int], str]) -> str:
    """Format a value and its mark."""
    if row.value > row.limit:
        return f"{unit(row.value)} > {unit(row.limit)}"
    return f"{unit(row.value)}, soon back"


def lacking(found: list[ModelRow], *, may_pull: bool) -> list[str]:
    """Say of each model that is on some disk which nodes lack it, and what brings it there."""
    lacked = {row.model: row.lacked_by for row in found if row.installed and row.lacked_by}
    return [
        f"{model} is not on {', '.join(nodes)}: {as_called(pull_line(model, nodes, may_pull))}"
        for model, nodes in lacked.items()
    ]


def models_table(found: list[ModelRow]) -> Table:
    """Make the table of `orion models`."""
    made = table(
        "MODEL", "NODE", "ON DISK", "IN MEMORY", "CONTEXT", "CAN", "DIGEST",
        right=("ON DISK", "IN MEMORY", "CONTEXT"),
    )  # fmt: skip
    for row in found:
        made.add_row(
            row.model,
            row.node,
            f"{row.size_mb} MB" if row.installed else Text("no", style=WAITING),
            Text(f"{row.resident_mb} MB", style=GOOD) if row.resident else "",
            str(row.num_ctx or row.context_length or ""),
            " ".join(row.can),
            Text(row.digest.removeprefix("sha256:")[:12], style=DIM),
        )
    return made


def show_ps(console: Console, found: PsRows) -> None:
    """Print `orion ps`."""
    if found.requests:
        console.print(requests_table(found.requests))
    else:
        console.print("no open request", style=DIM)
    if found.resident:
        console.print()
        console.print(resident_table(found.resident))


def requests_table(found: list[RequestRow]) -> Table:
    """Make the table of open requests."""
    made = table("CLIENT", "ID", "MODEL", "STATE", "NODE", "ATTEMPT", "AGE", right=("ATTEMPT", "AGE"))
    for row in found:
        style = GOOD if row.state == "running" else WAITING
        state = Text(row.state if row.node else waiting(row), style=style)
        made.add_row(
            row.client, row.id, row.model, state, row.node, str(row.attempt or ""), seconds(row.age_ms)
        )
    return made


def waiting(row: RequestRow) -> str:
    """Say what a request waits for: a busy node, or any node that could take it."""
    if row.waiting_for:
        return f"waiting for {row.waiting_for}"
    why = ", ".join(f"{node}: {reason}" for node, reason in row.reasons.items() if reason != "role")
    return f"waiting: {why}" if why else "waiting"


def resident_table(found: list[ResidentRow]) -> Table:
    """Make the table of models in memory."""
    made = table("NODE", "IN MEMORY", "SIZE", "CONTEXT", "RUNNING", right=("SIZE", "CONTEXT", "RUNNING"))
    for row in found:
        size = f"{row.resident_mb} MB"
        made.add_row(row.node, row.model, size, str(row.context_length or ""), str(row.running or ""))
    return made


def show_plan(console: Console, found: PlanRows) -> None:
    """Print `orion plan`: for each node its memory and a sentence for each model."""
    styles = {"keep": GOOD, "load": WAITING, "missing": BAD}
    for node in found.nodes:
        style = "" if node.known else WAITING
        console.print(Text(node.node, "bold").append(f": {plan_words.memory(node)}", style or "not bold"))
        for line in plan_words.of_node(found, node):
            told = Text().append(line.what, styles.get(line.action, DIM))
            told.append(f": {line.why}" if line.why else "")
            console.print(Padding(told, (0, 0, 0, 2), expand=False))
        console.print()
    if not found.placements:
        console.print("nothing to plan: no model is in memory, pinned or asked for of late", style=DIM)
    console.print(plan_words.demand(found))
    if not found.acted_on:
        console.print("policy.plan_every_ms is 0: the router does not act on it", style=WAITING)
