"""A fold of the log into alerts: what begins and what ends by the rules of [[alerts]]. Pure.

Rules are judged once in each second of grid time, at the head of a commit, with the grid as the commit
before left it: the same log gives the same alerts, however its reading was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from orion_streams.model import events as ev
from orion_streams.model.alert_rules import OF_NODES, AlertRule
from orion_streams.model.marks import (
    has_no_temperature,
    is_heard,
    is_past,
    is_stuck,
    ram_permille,
)
from orion_streams.model.names import full_model_name
from orion_streams.model.state import Grid, Node, Request, client_of
from orion_streams.model.vocabulary import AT_REST, BreakerState, Mark, RequestState
from orion_streams.projections import breaker
from orion_streams.projections.ended_requests import EndedRequest, EndedRequests
from orion_streams.projections.requests import state_of

JUDGE_MS = 1_000
BUCKETS = 60
"""A window of ended requests moves in so many steps."""
NEVER, LEFT, STUCK, AWAY = "never", "left", "stuck", "away"


class Alert(Struct, frozen=True, omit_defaults=True):
    """Something that a person is told of, at `position` of the log; it has held since `began_ms` of the
    server's clock. `about`: the node, or the client; `value`, `limit` and `detail`: what was seen when it
    was told, in the units of its kind."""

    rule: str
    kind: str
    severity: str
    began_ms: int
    position: int
    about: str = ""
    value: int = 0
    limit: int = 0
    detail: str = ""


class AlertChange(Struct, frozen=True, omit_defaults=True):
    """An alert is told, or ends, at `at_ms` of the server's clock and `position`."""

    alert: Alert
    at_ms: int
    position: int
    ended: bool = False

    @property
    def lasted_ms(self) -> int:
        """For how long it held, by the server's clock."""
        return max(self.at_ms - self.alert.began_ms, 0)


class Fact(Struct, frozen=True):
    """What a rule is about holds, with the figures that show it."""

    value: int = 0
    limit: int = 0
    detail: str = ""


UNKNOWN = Fact(detail="unknown")
"""Nobody knows whether it holds: what is open stays so, and nothing begins."""


class Moment(Struct, frozen=True):
    """When something is judged: `at_ms` counts how long it holds, `server_ms` is told to people."""

    at_ms: int
    server_ms: int
    position: int


class AlertBook(Struct):
    """What holds, since when, and which alerts are open, by `rule/about`."""

    since_ms: dict[str, int] = {}
    open: dict[str, Alert] = {}

    def judge(self, rule: AlertRule, facts: Mapping[str, Fact], now: Moment) -> Iterator[AlertChange]:
        """Yield what begins and ends by one rule. `facts`: by what they are about, those that hold, or are
        UNKNOWN."""
        for about, fact in sorted(facts.items()):
            key = f"{rule.name}/{about}"
            if fact is UNKNOWN:
                self.since_ms.pop(key, None)
                continue
            since_ms = min(self.since_ms.get(key, now.at_ms), now.at_ms)
            self.since_ms[key] = since_ms
            if key not in self.open and now.at_ms - since_ms >= rule.for_ms:
                self.open[key] = begun(rule, about, fact, since_ms, now)
                yield AlertChange(self.open[key], now.server_ms, now.position)
        held = {key for key in (*self.since_ms, *self.open) if key.partition("/")[0] == rule.name}
        yield from self._end(sorted(each for each in held if each.partition("/")[2] not in facts), now)

    def forget(self, rules: Sequence[AlertRule], now: Moment) -> Iterator[AlertChange]:
        """Yield the ends of alerts whose rule is no more."""
        names = {rule.name for rule in rules}
        held = {key for key in (*self.since_ms, *self.open) if key.partition("/")[0] not in names}
        yield from self._end(sorted(held), now)

    def _end(self, keys: Sequence[str], now: Moment) -> Iterator[AlertChange]:
        for key in keys:
            self.since_ms.pop(key, None)
            if (alert := self.open.pop(key, None)) is not None:
                yield AlertChange(alert, now.server_ms, now.position, ended=True)


def begun(rule: AlertRule, about: str, fact: Fact, since_ms: int, now: Moment) -> Alert:
    """Return the alert of what holds since `since_ms`, of the clock of `now.at_ms`."""
    return Alert(
        rule=rule.name,
        kind=rule.kind,
        severity=rule.severity,
        began_ms=now.server_ms - (now.at_ms - since_ms),
        position=now.position,
        about=about,
        value=fact.value,
        limit=fact.limit,
        detail=fact.detail,
    )


class Bucket(Struct):
    """Requests that ended in one step of a window, and how many of them failed."""

    step: int
    ended: int = 0
    failed: int = 0


class AlertState(Struct):
    """What the fold knows beside the grid. `windows`: by rule and its window, oldest first."""

    book: AlertBook = msgspec.field(default_factory=AlertBook)
    windows: dict[str, list[Bucket]] = {}


class AlertFold:
    """Folds a log by rules that the log can tell, from `grid` and `state`, which it owns, on."""

    def __init__(self, rules: Sequence[AlertRule], grid: Grid, state: AlertState | None = None) -> None:
        self.state = AlertState() if state is None else state
        self._rules = [rule for rule in rules if rule.kind in FACTS]
        self._counted = [rule for rule in self._rules if rule.kind == "errors"]
        self._ended = EndedRequests(grid)
        known = {window_of(rule) for rule in self._counted}
        for key in [key for key in self.state.windows if key not in known]:
            del self.state.windows[key]

    def take(self, grid: Grid, event: ev.AnyEvent) -> list[AlertChange]:
        """Follow an event that was folded into `grid`; return what begins and ends with it."""
        ended = self._ended.take(grid, event)
        if ended is not None:
            for rule in self._counted:
                note_end(self.state.windows.setdefault(window_of(rule), []), rule, ended, grid.at_ms)
        if not isinstance(event, ev.Committed) or grid.at_ms // JUDGE_MS == grid.before_ms // JUDGE_MS:
            return []
        now = Moment(grid.at_ms, grid.server_ms, grid.position)
        book = self.state.book
        changes = [each for rule in self._rules for each in book.judge(rule, self._facts(rule, grid), now)]
        return [*changes, *book.forget(self._rules, now)]

    def _facts(self, rule: AlertRule, grid: Grid) -> Mapping[str, Fact]:
        if rule.kind == "errors":
            return too_many_failed(rule, self.state.windows.get(window_of(rule), []), grid.at_ms)
        return FACTS[rule.kind](rule, grid)


def of_nodes(rule: AlertRule, grid: Grid) -> dict[str, Fact]:
    """Return the nodes for which a rule of nodes holds, or for which nobody knows."""
    named = rule.nodes or tuple(grid.nodes)
    found = {name: of_node(rule.kind, grid, grid.nodes[name]) for name in named if name in grid.nodes}
    return {name: fact for name, fact in found.items() if fact is not None}


def of_node(kind: str, grid: Grid, node: Node) -> Fact | None:
    """Return whether one of the kinds of nodes holds. Of one that is not heard only its silence, and its
    breaker, are known."""
    policy = grid.policy
    match kind:
        case "silent":
            is_meant = node.rest is not None
            return None if is_meant or is_heard(grid, node) else silence(grid, node)
        case "breaker":
            is_open = breaker.state_of(grid, node) in (BreakerState.OPEN, BreakerState.PROBING)
            return Fact(value=node.trips) if is_open else None
    if not is_heard(grid, node):
        return UNKNOWN
    match kind:
        case "hot" if is_past(node, Mark.HOT, policy):
            return Fact(node.temp_mc or 0, policy.temp_return_mc)
        case "full" if is_past(node, Mark.RAM, policy):
            return Fact(ram_permille(node), policy.ram_return_permille)
        case "no_sensor" if has_no_temperature(node):
            return Fact()
        case "no_sensor" if is_stuck(node, policy):
            return Fact(node.still_ms, detail=STUCK)
    return None


def silence(grid: Grid, node: Node) -> Fact:
    """Return for how long a node is not heard, and whether it said goodbye."""
    if node.heard_ms is None:
        return Fact(detail=NEVER)
    return Fact(grid.at_ms - node.heard_ms, detail=LEFT if node.left else "")


def waiting(rule: AlertRule, grid: Grid) -> list[tuple[str, Request]]:
    """Return the requests that wait and that a rule is about; those that wait for nodes at rest were meant
    to."""
    models = {full_model_name(model) for model in rule.models}
    return [
        (key, row)
        for key, row in grid.open.items()
        if state_of(row) is RequestState.WAITING
        and row.deferred not in AT_REST
        and (not rule.clients or client_of(key) in rule.clients)
        and (not models or row.model in models)
    ]


def too_long(rule: AlertRule, grid: Grid) -> dict[str, Fact]:
    """Return the longest wait, without that for nodes at rest, if it is over the limit."""
    longest = min(waiting(rule, grid), key=lambda each: begun_to_wait_ms(each[1]), default=None)
    if longest is None:
        return {}
    waited_ms = grid.at_ms - begun_to_wait_ms(longest[1])
    return {"": Fact(waited_ms, rule.over_ms, longest[0])} if waited_ms > rule.over_ms else {}


def begun_to_wait_ms(request: Request) -> int:
    """Return since when a request would wait if no node had rested."""
    return request.accepted_ms + request.rested_ms


def too_many(rule: AlertRule, grid: Grid) -> dict[str, Fact]:
    """Return how many requests wait, if they are over the limit."""
    number = len(waiting(rule, grid))
    return {"": Fact(number, rule.over)} if number > rule.over else {}


FACTS = {
    **dict.fromkeys(OF_NODES, of_nodes),
    "wait": too_long,
    "queue": too_many,
    "errors": lambda *_: {},
}
"""By kind: what holds of a grid; failed requests are counted as they end."""


def window_of(rule: AlertRule) -> str:
    """Return the name of a rule's window: a longer one begins anew."""
    return f"{rule.name}/{rule.window_ms}"


def step_of(rule: AlertRule, at_ms: int) -> int:
    """Return the step of a window in which a moment lies."""
    return at_ms * BUCKETS // rule.window_ms


def note_end(window: list[Bucket], rule: AlertRule, ended: EndedRequest, at_ms: int) -> None:
    """Count an ended request that the rule is about. A cancelled one is neither answered nor failed."""
    is_about = (
        (not rule.nodes or ended.node in rule.nodes)
        and (not rule.clients or client_of(ended.request) in rule.clients)
        and (not rule.models or ended.model in {full_model_name(model) for model in rule.models})
    )
    if not is_about or ended.outcome is RequestState.CANCELLED:
        return
    step = step_of(rule, at_ms)
    if not window or window[-1].step != step:
        window.append(Bucket(step))
        del window[:-BUCKETS]
    window[-1].ended += 1
    window[-1].failed += ended.outcome is not RequestState.DONE


def too_many_failed(rule: AlertRule, window: Sequence[Bucket], at_ms: int) -> dict[str, Fact]:
    """Return the share of failed requests within the window, if it is over the limit."""
    now = step_of(rule, at_ms)
    recent = [each for each in window if now - BUCKETS < each.step <= now]
    ended, failed = sum(each.ended for each in recent), sum(each.failed for each in recent)
    if ended < rule.least or failed * 1000 <= rule.over_permille * ended:
        return {}
    return {"": Fact(failed * 1000 // ended, rule.over_permille, f"{failed} of {ended}")}
