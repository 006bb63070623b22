"""The parts of `orion top`: nodes, runs, queue and decisions, as tables of whole texts. Pure drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec import Struct, structs
from rich.table import Table
from rich.text import Text

from orion_streams.cli.request_names import id_of, shortest
from orion_streams.cli.tables import BAD, DIM, GOOD, WAITING, table
from orion_streams.gateway.page_rows import OK, WARN, Doing, Lozenge, NodeCard, View
from orion_streams.gateway.page_words import about, passed
from orion_streams.model.text import gigabytes

ROOMY = 100
"""The width from which there is room for whole names, and models have a column of their own."""
NARROW, TIGHT = 64, 48
"""Below these widths some columns have no room: what is left is not folded letter by letter."""
SPARE = {NARROW: ("CPU", "RUNS", "TOK/S", "REQUEST", "MODEL", "AGE"), TIGHT: ("WHY",)}
STYLES = {OK: GOOD, WARN: WAITING}
MOST_LINES = 1_000
"""More than any terminal has."""
AVAILABLE, NOTHING = "available", "takes nothing: "
TELL_SINCE = ("stale", "breaker")
"""States whose words say since when."""
NODE_ORDERS: dict[str, Callable[[NodeCard], tuple[object, ...]]] = {
    "name": lambda card: (card.name,),
    "trouble": lambda card: ((OK, WARN).index(card.tone) if card.tone in (OK, WARN) else 2, card.name),
    "temperature": lambda card: (-(card.temp_mc or 0), card.name),
    "memory": lambda card: (-card.ram_used_mb * 1000 // max(card.ram_total_mb, 1), card.name),
}
QUEUE_ORDERS: dict[str, Callable[[Lozenge], tuple[object, ...]]] = {
    "service": lambda _: (),
    "age": lambda row: (-row.age_ms,),
    "client": lambda row: (row.client,),
    "model": lambda row: (row.model,),
    "work": lambda row: (-row.work_ms,),
}
"""The orders that the keys go through; "trouble" puts the worst first, "service" is that of the router."""


class Section(Struct):
    """A part of the screen: a title, and rows of cells under columns, which a table is made of. `least`: so
    many lines it has before other parts get more; `left_out`: rows that are not here."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Text | str, ...]]
    least: int = 4
    empty: str = ""
    left_out: int = 0

    def drawn(self, count: int) -> Table:
        """Return the table of the first `count` rows."""
        made = table(*self.columns, right=RIGHT, whole=WHOLE)
        for row in self.rows[:count]:
            made.add_row(*row)
        return made

    def more(self, count: int) -> str:
        """Say how many rows are left out, if only `count` are shown."""
        hidden = len(self.rows) - count + self.left_out
        return f"… {hidden} more" if hidden else ""


def narrowed(section: Section, width: int) -> Section:
    """Return a part without the columns that have no room in a width."""
    spare = {name for limit, names in SPARE.items() if width < limit for name in names}
    kept = [at for at, name in enumerate(section.columns) if name not in spare]
    columns = tuple(section.columns[at] for at in kept)
    return structs.replace(
        section, columns=columns, rows=[tuple(row[at] for at in kept) for row in section.rows]
    )


RIGHT = ("TEMP", "RAM", "CPU", "RUNS", "TOK/S", "AGE", "#")
WHOLE = (*RIGHT, "DONE", "TIME", "BEGINS IN")


def nodes(view: View, order: str, roomy: bool, models: bool = True, whole: bool = True) -> Section:
    """Return the nodes: what they are like, and why one takes nothing; with the models in memory or
    without, by their whole names or short ones."""
    cards = sorted(view.nodes, key=NODE_ORDERS[order])
    columns = ("NODE", "TEMP", "RAM", "CPU", "RUNS", "STATE", *(["IN MEMORY"] if roomy else []))
    rows = [node_row(card, view.at_ms, roomy, models, whole and models) for card in cards]
    return Section("NODES", columns, rows, MOST_LINES, "no node is configured")


def node_row(
    card: NodeCard, now_ms: int, roomy: bool, with_models: bool, whole: bool
) -> tuple[Text | str, ...]:
    """Return the cells of a node."""
    heard = card.heard_ms_ago is not None
    state, models = node_state(card, now_ms), in_memory(card)
    if with_models and models and not roomy:
        state = Text("\n").join([state, models])
    ram = f"{gigabytes(card.ram_used_mb)}/{gigabytes(card.ram_total_mb)} GB" if heard else ""
    return (
        Text(card.name if whole else card.short, style="bold"),
        heat(card) if heard else "",
        Text(ram, style=BAD if is_full(card) else ""),
        f"{card.cpu_permille / 10:.0f} %" if heard else "",
        f"{sum(each.what == 'run' for each in card.doing)}/{card.slots}" if card.slots else "",
        state,
        *([models] if roomy else []),
    )


def is_full(card: NodeCard) -> bool:
    """Whether a node's memory is above its mark."""
    return card.ram_used_mb * 1000 > card.ram_max_permille * max(card.ram_total_mb, 1)


def heat(card: NodeCard) -> Text:
    """Format a temperature, by its distance to the mark."""
    if card.temp_mc is None:
        return Text("none", style=DIM)
    style = (
        BAD if card.temp_mc > card.temp_max_mc else WAITING if card.temp_mc > card.temp_return_mc else GOOD
    )
    return Text(f"{card.temp_mc / 1000:.1f} °C", style=style)


def node_state(card: NodeCard, now_ms: int) -> Text:
    """Say that a node takes requests, or why it takes nothing, since when and until when."""
    if not card.inference and not card.why:
        return Text(card.role, style=DIM)
    if not card.why:
        return Text(AVAILABLE, style=STYLES.get(card.tone, BAD))
    is_told = card.since_ms is None or card.state in TELL_SINCE
    since = "" if is_told else f" since {passed(max(now_ms - (card.since_ms or 0), 0))}"
    until = f"; {card.until}" if card.until else ""
    return Text(f"{card.why.removeprefix(NOTHING)}{since}{until}", style=STYLES.get(card.tone, BAD))


def in_memory(card: NodeCard) -> Text:
    """List the models in a node's memory, and those that come."""
    names = [
        f"{chip.name} ({chip.state})" if chip.state != "resident" else chip.name for chip in card.models
    ]
    return Text(", ".join(names), style=DIM)


def runs(view: View, roomy: bool) -> Section:
    """Return what the nodes do."""
    found = [(card, each) for card in view.nodes for each in card.doing]
    names = shortest(f"{each.client}/{each.id}" for _, each in found if each.id)
    rows = [
        (
            Text(card.short, style="bold"),
            Text(each.text, style=WAITING if each.cold else ""),
            bar(each, 10 if roomy else 5),
            f"{each.tokens_per_s:.1f}" if each.tokens_per_s else "",
            id_of(names.get(f"{each.client}/{each.id}", "")),
        )
        for card, each in found
    ]
    return Section("RUNNING", ("RUNNING", "", "DONE", "TOK/S", "REQUEST"), rows, empty="nothing runs")


def bar(doing: Doing, width: int) -> Text:
    """Draw how far something is, as expected."""
    full = doing.progress_permille * width // 1000
    return Text.assemble(
        ("█" * full, GOOD), ("░" * (width - full), DIM), f" {doing.progress_permille // 10:>2} %"
    )


def queue(view: View, order: str, offset: int) -> Section:
    """Return the requests that wait, from the `offset`-th on."""
    ranked = sorted(enumerate(view.queue, 1), key=lambda each: QUEUE_ORDERS[order](each[1]))
    shown = ranked[offset:]
    names = shortest(f"{each.client}/{each.id}" for _, each in shown)
    rows = [
        (
            str(number),
            names[f"{row.client}/{row.id}"],
            row.model,
            passed(row.age_ms),
            begins_in(row),
            Text(row.why, style=DIM if row.waits_for == "queue" else WAITING),
        )
        for number, row in shown
    ]
    total = len(view.queue) + view.queue_left_out
    title = f"WAITING {total}" if total else "WAITING"
    columns = ("#", title, "MODEL", "AGE", "BEGINS IN", "WHY")
    return Section("WAITING", columns, rows, empty="nobody waits", left_out=view.queue_left_out)


def begins_in(row: Lozenge) -> str:
    """Format when a request is expected to give its first token."""
    if not row.eta_ms:
        return "not known"
    if row.eta_high_ms > row.eta_ms and about(row.eta_high_ms) != about(row.eta_ms):
        return f"{about(row.eta_ms)} to {about(row.eta_high_ms)}"
    return about(row.eta_ms)


def decisions(view: View) -> Section:
    """Return what was decided last, the newest first."""
    names = shortest(f"{each.client}/{each.id}" for each in view.decisions if each.id)
    rows = [
        (
            Text(datetime.fromtimestamp(each.ms / 1000).strftime("%H:%M:%S"), style=DIM),
            Text(each.text, style="" if each.tone == OK else STYLES.get(each.tone, BAD)),
            Text(id_of(names.get(f"{each.client}/{each.id}", "")), style=DIM),
        )
        for each in reversed(view.decisions)
    ]
    columns = ("TIME", "DECIDED", "REQUEST")
    return Section("DECIDED", columns, rows, empty="nothing was decided of late")
