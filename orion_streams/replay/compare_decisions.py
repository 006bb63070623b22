"""Compare recorded decisions with those under changed rules; report each difference once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node
from orion_streams.replay.decision_answers import Answers, Placed, Side
from orion_streams.replay.explain_change import Answer, Term, limit_of, mark_of, turned, why_given_up

GOES_ON, NOTHING, IN_SERVICE = Answer("goes_on"), Answer("nothing"), Answer("in_service")
ENDS = ("failed", "expired")
NODE_KINDS = ("backoff", "breaker")
FOR_EVER = ("unknown_model", "model_too_large")
"""Ends that the verdicts on the nodes explain."""
K = TypeVar("K")


class Changed(Struct, frozen=True, kw_only=True):
    """A decision that would change: about a request's `attempt`, or about a `node`. `kind`: that of the
    recorded decision (see `decision_answers.KINDS`), else of the one that would be made."""

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
    """A commit with decisions: its last position, and both sides."""

    position: int
    server_ms: int
    was: Side
    now: Side


Found = Iterator[tuple[Changed, bool]]
"""Changed decisions, and whether the log has a decision about the same."""


class Comparison:
    """Compares commit after commit, and remembers what it has reported. `foreign`: attempts, by request,
    that the changed rules would not have made, or would have abandoned."""

    def __init__(self) -> None:
        self.foreign: dict[str, set[int]] = {}
        self._told: dict[str, set[Answer]] = {}
        self._orders: set[tuple[str, str, str]] = set()
        self._out: dict[tuple[str, str], tuple[str, str]] = {}

    def accepted(self, request: str) -> None:
        """Forget what is known of a request id: it may have been used before."""
        self.foreign.pop(request, None)
        self._told.pop(request, None)

    def moved(self, node: str, model: str) -> None:
        """Report orders about a model anew, as it came or went."""
        self._orders -= {(order, node, model) for order in ("load", "unload")}

    def is_foreign(self, request: str, attempt: int) -> bool:
        """Tell whether only the recorded rules made this attempt."""
        return attempt in self.foreign.get(request, ())

    def _disown(self, request: str, attempt: int) -> None:
        self.foreign.setdefault(request, set()).add(attempt)

    def changed(self, at: Boundary) -> Found:
        """Yield the changed decisions of a commit, except those about nodes."""
        yield from self._given_up(at)
        yield from self._placed(at)
        yield from self._ordered(at)

    def _given_up(self, at: Boundary) -> Found:
        """Yield attempts that only one side abandons."""
        for key, recorded in one_sided(at, lambda answers: answers.given_up):
            if self.is_foreign(*key):
                continue
            side = at.was if recorded else at.now
            event, position = side.answers.given_up[key]
            answer = Answer("given_up", side.answers.next_node(key[0]), event.reason)
            if not recorded:
                self._disown(*key)
            changed = Changed(
                kind="give_up",
                position=position,
                server_ms=at.server_ms,
                recorded=answer if recorded else GOES_ON,
                would=GOES_ON if recorded else answer,
                term=replace(why_given_up(side.grid, event), kind="lifted" if recorded else "filter"),
                request=event.request,
                attempt=event.attempt,
                node=event.node,
            )
            yield changed, recorded

    def _placed(self, at: Boundary) -> Found:
        """Yield requests that would go elsewhere, later, sooner, or not at all."""
        recorded = at.was.answers.placed
        for key in {**recorded, **at.now.answers.placed}:
            was, now = at.was.placed(key, at.position), at.now.placed(key, at.position)
            if was is None:
                continue
            self._disown_moved(key, was, now, at)
            told = self._told.get(key, set())
            if now is None or now.answer == was.answer or now.answer in told:
                continue
            self._told[key] = told | {now.answer}
            changed = Changed(
                kind=was.kind if key in recorded else now.kind,
                position=was.position,
                server_ms=at.server_ms,
                recorded=was.answer,
                would=now.answer,
                term=placing_term(key, was, now, at),
                request=key,
                attempt=was.attempt or now.attempt or at.was.grid.open[key].attempt + 1,
            )
            yield changed, key in recorded

    def _disown_moved(self, key: str, was: Placed, now: Placed | None, at: Boundary) -> None:
        """Remember a recorded attempt that the changed rules would not have made on this node."""
        if now is None:
            moved = not at.now.answers.cut  # the attempt before it would still be under way
        else:
            moved = (now.answer.kind, now.answer.node) != ("routed", was.answer.node)
        if was.answer.kind == "routed" and moved:
            self._disown(key, was.attempt)

    def _ordered(self, at: Boundary) -> Found:
        """Yield models that only one side tells a node to load or to unload."""
        for key, recorded in one_sided(at, lambda answers: answers.orders):
            if key in self._orders:
                continue
            order, node, model = key
            answer = Answer(order, node, model)
            if not recorded:
                self._orders.add(key)
            changed = Changed(
                kind="order",
                position=at.was.answers.orders.get(key, at.position),
                server_ms=at.server_ms,
                recorded=answer if recorded else NOTHING,
                would=NOTHING if recorded else answer,
                term=Term("plan"),
                node=node,
            )
            yield changed, recorded

    def of_nodes(
        self, was: Grid, now: Grid, position: int, server_ms: int, decided: set[tuple[str, str]]
    ) -> Found:
        """Yield nodes from when they are out on one side only, or for another reason. `decided`: kinds and
        nodes that this commit of the log decided about."""
        for name, row in now.nodes.items():
            known = was.nodes.get(name)
            if known is None:
                continue
            for kind in NODE_KINDS:
                pair = state_of(known, kind), state_of(row, kind)
                is_known = self._out.get((kind, name), ("", "")) == pair
                self._out[kind, name] = pair
                if is_known or pair[0] == pair[1]:
                    continue
                recorded, would = (Answer("out", name, state) if state else IN_SERVICE for state in pair)
                changed = Changed(
                    kind=kind,
                    position=position,
                    server_ms=server_ms,
                    recorded=recorded,
                    would=would,
                    term=node_term(kind, known, row, was.policy, now.policy),
                    node=name,
                )
                yield changed, (kind, name) in decided


def one_sided(at: Boundary, rows_of: Callable[[Answers], Mapping[K, object]]) -> Iterator[tuple[K, bool]]:
    """Yield what only one side decided, and whether that is the recorded one, unless the commit of the
    other side was full."""
    was, now = rows_of(at.was.answers), rows_of(at.now.answers)
    for key in {**was, **now}:
        recorded = key in was
        other = at.now if recorded else at.was
        if (key in was) != (key in now) and not other.answers.cut:
            yield key, recorded


def placing_term(key: str, was: Placed, now: Placed, at: Boundary) -> Term:
    """Explain a changed placement."""
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


def state_of(node: Node, kind: str) -> str:
    """Return why a node is out, or an empty string while it is in service."""
    if kind == "backoff":
        return " ".join(node.backed_off)
    return "breaker" if node.opened_ms is not None else ""


def node_term(kind: str, was: Node, now: Node, recorded: Policy, would: Policy) -> Term:
    """Return the mark for which only one side keeps a node out; or the requests that failed there in a row,
    and how many of them would open its breaker."""
    name = now.rules.name
    if kind == "breaker":
        term, failed = ("filter", was) if now.opened_ms is not None else ("lifted", now)
        return Term(term, "breaker", name, len(failed.suspects), would.breaker_failures)
    newly = set(now.backed_off) - set(was.backed_off)
    if newly:
        reason = min(newly)
        return Term("filter", reason, name, *mark_of(now, reason, would))
    reason = min(set(was.backed_off) - set(now.backed_off))
    return Term("lifted", reason, name, *mark_of(was, reason, recorded))
