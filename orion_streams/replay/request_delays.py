"""Follow what a request waits for, and which runs a node had meanwhile. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from msgspec import Struct

from orion_streams.model.state import client_of
from orion_streams.model.verdict import Verdict
from orion_streams.replay.incident_facts import Delay, Moment

MAX_DELAYS = 16
"""Delays kept of one request: the first ones, and the last."""
MAX_TURNS = 100
"""Runs of one node that are remembered."""
FOR_EVER = ("role", "not_installed", "incapable", "tier", "too_large")
"""Filters that waiting does not lift."""


class Turn(Struct):
    """A run on a node: from the position of its routing to that of its end."""

    request: str
    model: str
    begin: int
    end: int | None = None


class Turns:
    """The last runs of each node, at most MAX_TURNS."""

    def __init__(self) -> None:
        self._of_node: dict[str, deque[Turn]] = {}
        self._now: dict[str, Turn] = {}

    def begin(self, node: str, request: str, model: str, position: int) -> None:
        """Remember that a request was sent to a node."""
        turn = self._now[request] = Turn(request, model, position)
        self._of_node.setdefault(node, deque(maxlen=MAX_TURNS)).append(turn)

    def end(self, request: str, position: int) -> None:
        """Remember that a request has left its node."""
        turn = self._now.pop(request, None)
        if turn is not None:
            turn.end = position

    def ahead(self, node: str, request: str, since: int) -> tuple[tuple[str, str, int], ...]:
        """Count the runs that a node had since a position, by client and model, most first; those of
        `request` are left out."""
        found = Counter(
            (client_of(turn.request), turn.model)
            for turn in self._of_node.get(node, ())
            if turn.request != request and (turn.end is None or turn.end >= since)
        )
        return tuple((*names, count) for names, count in found.most_common())


class Delays:
    """The delays of one request, which came at `begin`; moments hold grid time. `heat_ms`: what its last
    routing expected of the heat of its node."""

    def __init__(self, request: str, begin: Moment, kind: str = "unplaced") -> None:
        self._request = request
        self._done: list[Delay] = []
        self._now: Delay | None = Delay(begin=begin, kind=kind)
        self._sent = begin
        self.heat_ms = 0

    def waits(self, kind: str, node: str, verdicts: Sequence[Verdict], now: Moment, turns: Turns) -> None:
        """Begin to wait for a node, or for any."""
        held = tuple(each for each in verdicts if each.filter and each.filter not in FOR_EVER)
        self._look(turns)
        self._begin(Delay(begin=now, kind=kind, node=node, held=held))

    def sent(self, node: str, verdicts: Sequence[Verdict], now: Moment, turns: Turns) -> None:
        """End the wait: the request goes to `node`."""
        if self._now is not None and self._now.kind == "busy":
            self._now.node = node  # for which it really waited
        self._look(turns)
        self.heat_ms = next((each.heat_ms for each in verdicts if each.node == node), 0)
        self._begin(Delay(begin=now, kind="sent", node=node))
        self._sent = now

    def begun(self, now: Moment) -> None:
        """End the delay: the node runs it."""
        self._end(now)

    def failed(self, node: str, code: str, now: Moment) -> None:
        """Put one delay for the whole attempt, from its sending on, in the place of what there was."""
        self._end(now)
        if self._done and self._done[-1].kind == "sent":
            self._done.pop()
        self._now = Delay(begin=self._sent, kind="failed", node=node, code=code)
        self._begin(Delay(begin=now, kind="unplaced"))

    def ended(self, now: Moment) -> tuple[Delay, ...]:
        """End here; return those that took any time."""
        self._end(now)
        return tuple(each for each in self._done if each.length_ms(now) > 0)

    def _look(self, turns: Turns) -> None:
        """Note which runs the node had while the request waited for it."""
        if self._now is not None and self._now.kind == "busy":
            self._now.ahead = turns.ahead(self._now.node, self._request, self._now.begin.position)

    def _begin(self, delay: Delay) -> None:
        self._end(delay.begin)
        self._now = delay

    def _end(self, now: Moment) -> None:
        delay, self._now = self._now, None
        if delay is None:
            return
        delay.end = max(now, delay.begin)
        if len(self._done) == MAX_DELAYS:
            self._done.pop()
        self._done.append(delay)
