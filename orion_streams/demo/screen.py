"""The demo's live view: the node-state table and a progress bar, drawn from the log."""

from __future__ import annotations

import asyncio
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orion_streams.demo.observer import Observer
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.marks import ram_permille
from orion_streams.model.state import Grid, Node
from orion_streams.projections import apply

REFRESH_S = 0.2
HISTORY = (ev.RequestRouted, ev.RequestCompleted, ev.NodeBackedOff, ev.NodeReturned, ev.AttemptAbandoned)


class Screen:
    """A live table on a terminal, plain lines elsewhere. `history`: the decisions and outcomes so far."""

    def __init__(self, stderr: bool, engine: str) -> None:
        self.console = Console(stderr=stderr)
        self.engine = engine
        self.history: list[ev.AnyEvent] = []
        self._grid = Grid()
        self._answers: dict[str, int] = {}
        self._progress = Progress(
            TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._progress.add_task("", total=None)
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def act(self, title: str) -> None:
        """Print the title of an act."""
        self.console.print(Text(title, style="bold"))

    def say(self, line: str) -> None:
        """Print a line of the story."""
        self.console.print(f"   {line}", highlight=False, soft_wrap=True)

    async def follow(self, store: RedisLog, observer: Observer, total: int) -> None:
        """Fold the log as it grows; draw the nodes and the progress towards `total` answers."""
        while True:
            rows = await store.events(self._grid.position, 1000)
            for _, raw in rows:
                self._take(event_codec.decode(raw))
            self._progress.update(self._task, total=total, completed=observer.answered_so_far())
            if self.console.is_terminal:
                self._live.update(self._draw(), refresh=True)
            await asyncio.sleep(REFRESH_S)

    def _take(self, event: ev.AnyEvent) -> None:
        apply(self._grid, event)
        if isinstance(event, HISTORY):
            self.history.append(event)
        if isinstance(event, ev.RequestCompleted):
            self._answers[event.node] = self._answers.get(event.node, 0) + 1

    def _draw(self) -> RenderableType:
        title = f"SIMULATED nodes (engine: {self.engine})"
        table = Table(title=title, title_style="dim", expand=False)
        for column in ("node", "state", "°C", "RAM", "running", "in memory", "answers"):
            table.add_column(column, justify="right" if column in ("°C", "RAM", "answers") else "left")
        for name, node in sorted(self._grid.nodes.items()):
            table.add_row(*self._row(name, node))
        waiting = sum(not row.work_id for row in self._grid.open.values())
        return Group(table, Text(f"waiting: {waiting}", style="dim"), self._progress)

    def _row(self, name: str, node: Node) -> list[RenderableType]:
        policy = self._grid.policy
        temp = "-" if node.temp_mc is None else f"{node.temp_mc / 1000:.1f}"
        hot = node.temp_mc is not None and node.temp_mc > policy.temp_max_mc
        ram = ram_permille(node)
        return [
            name,
            self._state(node),
            Text(temp, style="bold red" if hot else ""),
            Text(f"{ram / 10:.0f} %", style="bold red" if ram > policy.ram_max_permille else ""),
            ", ".join(sorted({held.model for held in node.assignments.values()})) or "-",
            ", ".join(sorted(node.resident)) or "-",
            str(self._answers.get(name, 0)),
        ]

    def _state(self, node: Node) -> Text:
        if not node.rules.inference:
            return Text("robot: no inference", style="dim")
        if node.heard_ms is None or self._grid.at_ms - node.heard_ms > self._grid.policy.stale_ms:
            return Text("silent", style="red")
        if node.backed_off:
            return Text(f"backed off: {' '.join(node.backed_off)}", style="red")
        return Text("available", style="green")
