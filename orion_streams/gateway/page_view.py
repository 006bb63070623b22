"""The page at one moment: `view`. Pure.

It is built from the grid as it is now (or as it was), and from `Recent`, what the last minutes brought.
What is hidden from a caller is hidden here, now and in the past alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from orion_streams.gateway.grid_state import health_of
from orion_streams.gateway.listings import listed
from orion_streams.gateway.page_nodes import card
from orion_streams.gateway.page_queue import lozenges
from orion_streams.gateway.page_recent import Recent
from orion_streams.gateway.page_rows import OK, WARN, NodeCard, PageCaller, View, as_seen_by
from orion_streams.gateway.page_sentence import AWAY_MS, sentence
from orion_streams.gateway.view_models import node_rows
from orion_streams.model.state import Grid

SIMULATED = "simulated"
"""How the engine of a simulated node begins."""
MOST_MODELS = 200
EVERYBODY = PageCaller("", sees_all=True)


def view(
    grid: Grid,
    silent_ms: int,
    heard_ms_ago: int,
    recent: Recent,
    caller: PageCaller,
    *,
    live: bool = True,
    aliases: Mapping[str, str] | None = None,
) -> View:
    """Return the page for a caller. `grid`: moved on to the moment of asking; `silent_ms`: for how long no
    router has looked; `heard_ms_ago`: since Redis answered last. Past views have both at 0."""
    return as_seen_by(whole(grid, silent_ms, heard_ms_ago, recent, live=live, aliases=aliases), caller)


def whole(
    grid: Grid,
    silent_ms: int,
    heard_ms_ago: int,
    recent: Recent,
    *,
    live: bool = True,
    aliases: Mapping[str, str] | None = None,
) -> View:
    """Return the page for who may see everything. While Redis is away it shows what was heard last: nobody
    knows of a node since."""
    is_away = heard_ms_ago > AWAY_MS
    if is_away:
        then_ms = grid.at_ms - heard_ms_ago, grid.server_ms - heard_ms_ago
        grid = replace(grid, at_ms=max(then_ms[0], 0), server_ms=max(then_ms[1], 0))
    rows = node_rows(grid)
    cards = [card(grid, row, recent) for row in rows]
    found = health_of(grid, 0 if is_away else silent_ms, rows)
    said = sentence(grid, cards, found, silent_ms, heard_ms_ago)
    queue, left_out = lozenges(grid)
    return View(
        position=grid.position,
        at_ms=grid.server_ms,
        live=live,
        heard_ms_ago=heard_ms_ago,
        simulated=[row.node for row in rows if row.engine.startswith(SIMULATED)],
        tone=said.tone,
        sentence=said.text,
        reasons=[each for each in found.reasons if not each.startswith(said.told)],
        caller=EVERYBODY,
        models=[row.name for row in listed(grid, aliases or {})[:MOST_MODELS]],
        nodes=[greyed(each) for each in cards] if is_away else cards,
        track=recent.track_after(0, grid.server_ms),
        queue=queue,
        queue_left_out=left_out,
        decisions=recent.decisions_after(0),
        ticks=recent.ticks_after(0),
    )


def greyed(node: NodeCard) -> NodeCard:
    """Return the card of a node of which nobody knows whether it is still so: nothing is green."""
    return replace(node, tone=WARN) if node.tone == OK else node


def news_after(whole_view: View, recent: Recent, position: int) -> View:
    """Return the view with only those tracks, decisions and ticks that came after a position."""
    return replace(
        whole_view,
        track={
            node: points
            for node, points in recent.track_after(position, whole_view.at_ms).items()
            if points
        },
        decisions=recent.decisions_after(position),
        ticks=recent.ticks_after(position),
    )
