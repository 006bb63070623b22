"""The screen of `orion top`: a frame, fitted to the terminal. What is shown is not cut, what has no room is
counted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from orion_streams.cli import top_sections
from orion_streams.cli.tables import BAD, DIM, WAITING
from orion_streams.cli.top_sections import (
    NARROW,
    NODE_ORDERS,
    QUEUE_ORDERS,
    ROOMY,
    STYLES,
    Section,
    narrowed,
)
from orion_streams.gateway.page_rows import View
from orion_streams.gateway.page_sentence import AWAY_MS
from orion_streams.gateway.page_words import passed

Lines = list[list[Segment]]
TALL = 26
"""From so many lines for the parts on there is an empty one between them, else where all has room."""
MOST_FOR_NODES = 0.4
"""Above this share of the lines nodes are shown without the models in their memory, if room is short."""
KEYS = "q quit · space pause · s sort queue · n sort nodes · j k scroll queue · ? help"
HELP = f"""\
q, Ctrl-C    leave
space, p     hold this frame, and go on again
s            next order of the queue: {", ".join(QUEUE_ORDERS)}
n            next order of the nodes: {", ".join(NODE_ORDERS)}
j, k, ↓, ↑   through the queue; page down, page up by ten; g to its begin
A request is explained by what is shown of its id: orion explain ID"""


class Chosen(Struct, frozen=True):
    """What a person chose with keys. `paused_ms`: for how long the frame has stood still; None: it does
    not."""

    node_order: str = next(iter(NODE_ORDERS))
    queue_order: str = next(iter(QUEUE_ORDERS))
    offset: int = 0
    paused_ms: int | None = None
    keys: bool = True
    help: bool = False


class Frame:
    """One frame. In a height it shows the beginning of each part, else everything."""

    def __init__(self, view: View, chosen: Chosen, height: int | None = None) -> None:
        self._view, self._chosen, self._height = view, chosen, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        height = self._height
        head = rendered(console, options, self._head())
        foot = rendered(console, options, self._foot())
        left = None if height is None else max(height - len(head) - len(foot), 0)
        body = fitted(console, options, self._sections(console, options, left), left)
        lines = [*head, *body, *foot]
        if height is not None:
            if body and len(lines) < height:
                lines = [*head, *body, *blank(height - len(lines)), *foot]
            lines = lines[:height]
        for at, line in enumerate(lines):
            if at:
                yield Segment.line()
            yield from self._dimmed(line) if at >= len(head) else line
        if height is None:
            yield Segment.line()

    def _dimmed(self, line: list[Segment]) -> list[Segment]:
        """Return a line that nobody takes for what is so now, while Redis is away."""
        if not is_away(self._view):
            return line
        return list(Segment.apply_style(line, post_style=Style(dim=True, color="bright_black")))

    def _head(self) -> Text:
        view, paused_ms = self._view, self._chosen.paused_ms
        style = f"bold {STYLES.get(view.tone, BAD)}"
        when = datetime.fromtimestamp(view.at_ms / 1000).strftime("%H:%M:%S") if view.at_ms else ""
        text = Text.assemble((view.sentence, style), (f"   {when}" if when else "", DIM))
        if paused_ms is not None:
            text.append(f"\npaused for {passed(paused_ms)}: not live", f"bold {WAITING}")
        return text

    def _foot(self) -> Text:
        view, chosen = self._view, self._chosen
        rows = [f"simulated: {', '.join(view.simulated)}"] if view.simulated else []
        if chosen.keys:
            orders = f"queue by {chosen.queue_order}, nodes by {chosen.node_order}"
            rows.append(KEYS)
            if chosen.help:
                rows.append(HELP)
            if chosen.help or (chosen.queue_order, chosen.node_order) != DEFAULT:
                rows.append(orders)
        return Text("\n".join(rows), style=DIM)

    def _sections(self, console: Console, options: ConsoleOptions, height: int | None) -> list[Section]:
        view, chosen, width = self._view, self._chosen, options.max_width
        roomy, whole = width >= ROOMY, width >= NARROW
        sections = [
            top_sections.nodes(view, chosen.node_order, roomy, whole=whole),
            top_sections.runs(view, roomy),
            top_sections.queue(view, chosen.queue_order, chosen.offset),
            top_sections.decisions(view),
        ]
        if height is not None and not roomy:
            wanted = [len(drawn(console, options, each, height)) for each in sections]
            if sum(wanted) > height and wanted[0] > height * MOST_FOR_NODES:
                sections[0] = top_sections.nodes(view, chosen.node_order, roomy, models=False)
        return [narrowed(each, width) for each in sections]


DEFAULT = (Chosen().queue_order, Chosen().node_order)


def is_away(view: View) -> bool:
    """Whether the view is that of a server which does not answer."""
    return view.heard_ms_ago > AWAY_MS


def rendered(console: Console, options: ConsoleOptions, text: Text) -> Lines:
    """Return a text as lines, wrapped; an empty one has none."""
    return console.render_lines(text, options, pad=False) if text.plain else []


def blank(count: int) -> Lines:
    """Return empty lines."""
    return [[] for _ in range(count)]


def fitted(
    console: Console, options: ConsoleOptions, sections: Sequence[Section], height: int | None
) -> Lines:
    """Return the parts, one below the other, in a height. Room is shared out line by line, after each part
    has what it needs at least."""
    whole = [
        drawn(console, options, each, len(each.rows) if height is None else height) for each in sections
    ]
    if height is None:
        return [line for lines in whole for line in [*lines, []]][:-1]
    wanted = [len(lines) for lines in whole]
    gaps = len(sections) - 1
    gap: Lines = blank(1) if height >= TALL or sum(wanted) + gaps <= height else []
    height -= len(gap) * gaps
    least = [min(want, each.least) for want, each in zip(wanted, sections, strict=True)]
    parts: list[Lines] = []
    for lines, section, room in zip(whole, sections, shares(wanted, least, height), strict=True):
        parts.append(lines if len(lines) <= room else squeezed(console, options, section, room))
    for at, section in enumerate(sections):
        spare = height - sum(map(len, parts))
        if len(parts[at]) < wanted[at] and spare > 0:
            parts[at] = squeezed(console, options, section, len(parts[at]) + spare)
    return [line for at, part in enumerate(parts) for line in (*(gap if at else []), *part)]


def shares(wanted: Sequence[int], least: Sequence[int], height: int) -> list[int]:
    """Share out lines: to each what it needs at least, as far as those after it keep two, then one by one
    to who wants more."""
    given = [0] * len(wanted)
    for at, need in enumerate(least):
        kept = sum(min(each, 2) for each in least[at + 1 :])
        given[at] = min(need, max(height - sum(given) - kept, 0))
    while sum(given) < min(height, sum(wanted)):
        for at, want in enumerate(wanted):
            if given[at] < want and sum(given) < height:
                given[at] += 1
    return given


def drawn(console: Console, options: ConsoleOptions, section: Section, count: int) -> Lines:
    """Return a part with at most `count` rows, and a line that says how many are left out."""
    if not section.rows:
        head = Text.assemble((section.title, "bold"), (f"  {section.empty}", DIM))
        return rendered(console, options, head)
    lines = console.render_lines(section.drawn(count), options, pad=False)
    more = section.more(min(count, len(section.rows)))
    return [*lines, *rendered(console, options, Text(more, style=DIM))]


def squeezed(console: Console, options: ConsoleOptions, section: Section, height: int) -> Lines:
    """Return as many rows of a part as fit into a height."""
    for count in range(min(height, len(section.rows)), 0, -1):
        lines = drawn(console, options, section, count)
        if len(lines) <= height:
            return lines
    return drawn(console, options, section, 0)[:height]
