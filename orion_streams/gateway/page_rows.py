"""What the page shows at one moment: the `View` and its rows. Pure.

Times called `ms` are the server's clock; `*_ms` beside them are durations unless said otherwise. Nothing
here holds a prompt, an answer or a session; ids of requests stand in `id` alone, never in a sentence, so
that hiding them is to empty that field (`as_seen_by`).
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

OK, WARN, BAD = "ok", "warn", "bad"

TrackPoint = tuple[int, int | None, int]
"""The moment in ms, the temperature in mc (None: none is known), used memory in thousandths."""


class PageCaller(Struct, frozen=True):
    """Who looks: as which client of the grid, by which key (""; by none), and what it may do and see."""

    client: str
    name: str = ""
    view_only: bool = False
    sees_all: bool = False

    def sees(self, client: str) -> bool:
        """Whether ids of this client's requests are shown."""
        return self.sees_all or (client == self.client and client != "")


class ModelChip(Struct, frozen=True):
    """A model in a node's memory, or on its way there (`loading`), and its runs."""

    name: str
    size_mb: int
    state: str
    running: int


class Doing(Struct, frozen=True):
    """What a node has in hand: a run or a load. `number`: the request's position (0: it is over);
    `tokens_per_s`: as learned; `ends_in_ms`: as expected; `text`: the same in words."""

    what: str
    client: str
    id: str
    number: int
    model: str
    state: str
    tokens_per_s: float
    progress_permille: int
    age_ms: int
    ends_in_ms: int
    cold: bool
    text: str


class NodeCard(Struct, frozen=True):
    """A node. `why` it takes nothing, `since_ms` when (a moment; None: not known), and `until` what has to
    happen; empty while it takes requests."""

    name: str
    short: str
    inference: bool
    role: str
    tone: str
    state: str
    heard_ms_ago: int | None
    temp_mc: int | None
    temp_max_mc: int
    temp_return_mc: int
    ram_used_mb: int
    ram_total_mb: int
    ram_max_permille: int
    cpu_permille: int
    slots: int
    breaker: str
    engine: str
    models: list[ModelChip]
    doing: list[Doing]
    why: str = ""
    since_ms: int | None = None
    until: str = ""


class Lozenge(Struct, frozen=True):
    """A request that waits. `number`: the position at which it was accepted; `work_ms`: its own expected
    work; `eta_ms`: until its first token, as expected, `eta_high_ms` if all takes its longest (0: nobody
    knows); `waits_for`: queue, load, heat, quiet, node; `why`: the same in words."""

    number: int
    client: str
    id: str
    model: str
    kind: str
    priority: int
    age_ms: int
    work_ms: int
    eta_ms: int
    eta_high_ms: int
    waits_for: str
    why: str


class Decision(Struct, frozen=True):
    """Something that was decided, or came of it, in words. `number`: of the request that it is about
    (0: of none)."""

    position: int
    ms: int
    tone: str
    node: str
    client: str
    id: str
    number: int
    text: str


class Tick(Struct, frozen=True):
    """A moment at which something went wrong, and until when it lasted; 0: over at once, or it lasts."""

    position: int
    ms: int
    kind: str
    node: str
    text: str
    until_ms: int = 0


class View(Struct, frozen=True):
    """The page at one moment. `live`: now, else as it was; `heard_ms_ago`: since Redis answered last.
    `tone` and `sentence`: the whole in a line; `reasons`: what else stands against
    it."""

    position: int
    at_ms: int
    live: bool
    heard_ms_ago: int
    simulated: list[str]
    tone: str
    sentence: str
    reasons: list[str]
    caller: PageCaller
    models: list[str]
    nodes: list[NodeCard]
    track: dict[str, list[TrackPoint]]
    queue: list[Lozenge]
    queue_left_out: int
    decisions: list[Decision]
    ticks: list[Tick]


def as_seen_by(view: View, caller: PageCaller) -> View:
    """Return the view for somebody: without the ids of what is another client's."""
    if caller.sees_all:
        return replace(view, caller=caller)

    def hidden(row: Doing | Lozenge | Decision) -> Doing | Lozenge | Decision:
        return row if not row.id or caller.sees(row.client) else replace(row, id="")

    return replace(
        view,
        caller=caller,
        nodes=[replace(node, doing=[hidden(each) for each in node.doing]) for node in view.nodes],
        queue=[hidden(each) for each in view.queue],
        decisions=[hidden(each) for each in view.decisions],
    )
