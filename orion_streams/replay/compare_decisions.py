"""Two answers to each question of a log: as recorded, and under changed rules. Which decisions differ, and
what turned them; each of them once. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node
from orion_streams.replay.decision_answers import Placed, Side
from orion_streams.replay.explain_change import Answer, Term, limit_of, mark_of, turned, why_given_up

GOES_ON, NOTHING, IN_SERVICE = Answer("goes_on"), Answer("nothing"), Answer("in_service")
ENDS = ("failed", "expired")
NODE_KINDS = ("backoff", "breaker")
FOR_EVER = ("unknown_model", "model_too_large")
"""Ends that the verdicts on the nodes explain."""


class Changed(Struct, frozen=True):
    """A decision that would change: about a request's `attempt`, or about a `node`. `kind` as in
    `answers.KINDS`, of the recorded decision, else of the one that would be made."""

    kind: str
    position: int
    server_ms: int
    recorded: Answer
    would: Answer
    term: Term
    request: str = ""
    attempt: int = 0
    node: str = ""


class Boundary(Struct, frozen=True):
    """A moment at which the router decided: the commit's last position, and both sides."""

    position: int
    server_ms: int
    was: Side
    now: Side


Found = Iterator[tuple[Changed, bool]]
"""Changed decisions, and whether the log has a decision there at all."""


class Comparison:
    """Compares boundary after boundary, and remembers what it has said. `foreign`: attempts, by request,
    that the changed rules would not have made, or would have given up."""

    def __init__(self) -> None:
        self.foreign: dict[str, set[int]] = {}
        self._told: dict[str, set[Answer]] = {}
        self._orders: set[tuple[str, str, str]] = set()
        self._out: dict[tuple[str, str], tuple[str, str]] = {}

    def accepted(self, request: str) -> None:
        """A new request: nothing is known of it, also under an id that was used before."""
        self.foreign.pop(request, None)
        self._told.pop(request, None)

    def moved(self, node: str, model: str) -> None:
        """A model came or went: an order about it is a new one."""
        self._orders -= {(order, node, model) for order in ("load", "unload")}

    def is_foreign(self, request: str, attempt: int) -> bool:
        """Whether history alone made this attempt."""
        return attempt in self.foreign.get(request, ())

    def _disown(self, request: str, attempt: int) -> None:
        self.foreign.setdefault(request, set()).add(attempt)

    def changed(self, at: Boundary) -> Found:
        """What is decided otherwise there, but for the nodes."""
        yield from self._given_up(at)
        yield from self._placed(at)
        yield from self._ordered(at)

    def _given_up(self, at: Boundary) -> Found:
        """Attempts that only one side gives up."""
        was, now = at.was.answers, at.now.answers
        for key in {**was.given_up, **now.given_up}:
            recorded = key in was.given_up
            side, other = (at.was, now) if recorded else (at.now, was)
            if (recorded and key in now.given_up) or self.is_foreign(*key) or other.cut:
                continue
            event, position = side.answers.given_up[key]
            term = replace(why_given_up(side.grid, event), kind="lifted" if recorded else "filter")
            answer = Answer("given_up", side.answers.next_node(key[0]), event.reason)
            answers = (answer, GOES_ON) if recorded else (GOES_ON, answer)
            if not recorded:
                self._disown(*key)
            yield Changed("give_up", position, at.server_ms, *answers, term, *key, event.node), recorded

    def _placed(self, at: Boundary) -> Found:
        """Requests that go elsewhere, later, sooner, or not at all."""
        recorded = at.was.answers.placed
        for key in {**recorded, **at.now.answers.placed}:
            was = recorded.get(key) or at.was.waiting(key, at.position)
            now = at.now.answers.placed.get(key) or at.now.waiting(key, at.position)
            if was is None:
                continue
            went = was.answer.kind == "routed"
            if now is None:
                if went and not at.now.answers.cut:
                    self._disown(key, was.attempt)  # the attempt before it would still be under way
                continue
            if went and (now.answer.kind, now.answer.node) != ("routed", was.answer.node):
                self._disown(key, was.attempt)
            told = self._told.get(key, set())
            if was.answer == now.answer or now.answer in told:
                continue
            self._told[key] = told | {now.answer}
            kind = was.kind if key in recorded else now.kind
            attempt = was.attempt or now.attempt or at.was.grid.open[key].attempt + 1
            term = placing_term(key, was, now, at)
            yield (
                Changed(kind, was.position, at.server_ms, was.answer, now.answer, term, key, attempt),
                key in recorded,
            )

    def _ordered(self, at: Boundary) -> Found:
        """Models that only one side tells a node to load or to unload."""
        was, now = at.was.answers, at.now.answers
        for key in {**was.orders, **now.orders}:
            recorded = key in was.orders
            if key in self._orders or (recorded and key in now.orders) or (now if recorded else was).cut:
                continue
            order, node, model = key
            answer = Answer(order, node, model)
            answers = (answer, NOTHING) if recorded else (NOTHING, answer)
            if not recorded:
                self._orders.add(key)
            position = was.orders.get(key, at.position)
            yield Changed("order", position, at.server_ms, *answers, Term("plan"), node=node), recorded

    def of_nodes(
        self, was: Grid, now: Grid, position: int, server_ms: int, decided: set[tuple[str, str]]
    ) -> Found:
        """Nodes that are out on one side and not, or for something else, on the other: when that begins.
        `decided`: kinds and nodes that the log decided about just there."""
        for name, row in now.nodes.items():
            known = was.nodes.get(name)
            for kind in NODE_KINDS if known is not None else ():
                pair = state_of(known, kind), state_of(row, kind)
                if self._out.get((kind, name), ("", "")) == pair:
                    continue
                self._out[kind, name] = pair
                if pair[0] == pair[1] or known is None:
                    continue
                recorded, would = (Answer("out", name, state) if state else IN_SERVICE for state in pair)
                term = node_term(kind, known, row, was.policy, now.policy)
                changed = Changed(kind, position, server_ms, recorded, would, term, node=name)
                yield changed, (kind, name) in decided


def placing_term(key: str, was: Placed, now: Placed, at: Boundary) -> Term:
    """What turned a placement."""
    verdicts = []
    for placed, side in ((was, at.was), (now, at.now)):
        if placed.answer.kind in ENDS and placed.answer.code not in FOR_EVER:
            return limit_of(placed.answer, side.placing().open[key], side.grid.policy)
        verdicts.append(side.verdicts(key) if placed.answer.kind in ENDS else placed.verdicts)
    term = turned(was.answer, now.answer, *verdicts)
    if term.kind not in ("order", "slots"):
        return term
    side, node = (at.now, was.answer.node) if was.answer.kind == "routed" else (at.was, now.answer.node)
    return replace(term, name=side.answers.served(node, key), node=node)


def state_of(node: Node | None, kind: str) -> str:
    """What a node is out for; empty: it is in service."""
    if node is None:
        return ""
    if kind == "backoff":
        return node.backed_off
    return "breaker" if node.opened_ms is not None else ""


def node_term(kind: str, was: Node, now: Node, recorded: Policy, would: Policy) -> Term:
    """The mark that only one side holds a node back for; or the requests that failed there in a row, and
    how many of them would open its breaker."""
    name = now.rules.name
    if kind == "breaker":
        term, failed = ("filter", was) if now.opened_ms is not None else ("lifted", now)
        return Term(term, "breaker", name, len(failed.suspects), would.breaker_failures)
    newly = set(now.backed_off.split()) - set(was.backed_off.split())
    if newly:
        reason = min(newly)
        return Term("filter", reason, name, *mark_of(now, reason, would))
    reason = min(set(was.backed_off.split()) - set(now.backed_off.split()))
    return Term("lifted", reason, name, *mark_of(was, reason, recorded))
