"""The picture of `orion top` in the documents: a moment of a SIMULATED afternoon, drawn by the real screen.

python -m tests.cli.pictures_top DIR    write DIR/top.svg
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console

from orion_streams.cli.top_view import Chosen, Frame
from orion_streams.eventlog.loader import fold_each
from orion_streams.gateway.page_recent import Recent
from orion_streams.gateway.page_rows import View
from orion_streams.gateway.page_view import SIMULATED, whole
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.replay.logs import recorded

WIDTH, HEIGHT = 100, 30
LINKS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich's pictures load a font from somewhere else; ours load nothing."""


def busy_moment() -> View:
    """Return the first moment of a hot afternoon at which a node is out and several requests wait."""
    state, recent = LoggedGrid(Grid()), Recent()
    recent.begin(state.grid)
    for _, event in fold_each(state, recorded("decode-heavy", "hot-afternoon", 120)):
        recent.take(state.grid, event)
        grid = state.grid
        waiting = sum(not row.work_id for row in grid.open.values())
        if waiting >= 4 and any(Mark.HOT in node.backed_off for node in grid.nodes.values()):
            return whole(labelled(grid), 0, 0, recent)
    raise AssertionError("that afternoon was never hot and busy")


def labelled(grid: Grid) -> Grid:
    """Return the grid with each node's engine named for what it is."""
    nodes = {name: replace(node, engine=SIMULATED) for name, node in grid.nodes.items()}
    return replace(grid, nodes=nodes)


def picture(view: View) -> str:
    """Return the screen as SVG, which loads nothing."""
    console = Console(
        record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(Frame(view, Chosen(), HEIGHT))
    return LINKS.sub("", console.export_svg(title="orion top (a simulated grid)", unique_id="top"))


def in_utc() -> None:
    """Let this process show times as nobody's in particular."""
    os.environ["TZ"] = "UTC"
    time.tzset()


def main(folder: str) -> None:
    """Write the picture."""
    in_utc()
    target = Path(folder) / "top.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture(busy_moment()), encoding="utf-8")
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
