"""Why two decisions differ: a filter that newly applies, or no longer does, or a term of the cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from orion_streams.decider.route import ram_permille
from orion_streams.model.events import TERMS, AttemptAbandoned, Verdict
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node, Request


class Answer(Struct, frozen=True):
    """What is answered to one question. Of a request: `routed` to `node`, `deferred` (`code` busy, for
    `node`, or no_node), `failed` with `code`, `expired`, `given_up` for the reason `code` (and sent to
    `node` next, if anywhere), `goes_on`. Of a node: `out` for `code` (its marks, or breaker), `in_service`,
    `load` or `unload` of the model `code`. `nothing` otherwise. `evicts`: models that go for it."""

    kind: str
    node: str = ""
    code: str = ""
    evicts: tuple[str, ...] = ()


class Term(Struct, frozen=True):
    """What turned a decision.

    `kind` filter: `name` newly holds `node` back, by `value` against `limit`; lifted: it no longer does,
    the figures are the recorded ones. cost: the term `name` on `node`, in ms `before` and `after`. slots:
    free ones on `node`, `before` and `after`, and the request `name` that takes one instead, if one does.
    order: that one is served first. rule: another limit of the rules, `name` the code of the end. plan:
    what should be in memory.
    """

    kind: str
    name: str = ""
    node: str = ""
    value: int = 0
    limit: int = 0
    before: int = 0
    after: int = 0


ORDER = Term("order")


def turned(recorded: Answer, would: Answer, was: Sequence[Verdict], now: Sequence[Verdict]) -> Term:
    """The term that turned the placement of a request, from the verdicts of both decisions."""
    before = {each.node: each for each in was}
    after = {each.node: each for each in now}
    chosen, other = recorded.node, would.node
    held = after.get(chosen)
    if chosen and (held is None or held.filter):
        return as_term("filter", held or Verdict(chosen, "removed"))
    held = before.get(other)
    if other and (held is None or held.filter):
        return as_term("lifted", held or Verdict(other, "added"))
    if chosen and other and chosen != other:
        return dearest(before[chosen], after[chosen], before[other], after[other])
    if chosen:
        return on_the_same(recorded, would, before[chosen], after[chosen])
    return next((as_term("filter", each) for each in now if is_new(each, before.get(each.node))), ORDER)


def is_new(found: Verdict, before: Verdict | None) -> bool:
    """Whether something else holds the node back than before."""
    return bool(found.filter) and (before is None or found.filter != before.filter)


def on_the_same(recorded: Answer, would: Answer, was: Verdict, now: Verdict) -> Term:
    """Why the same node begins now instead of later, later instead of now, or lets others go for it."""
    if recorded.kind != would.kind and was.free_slots != now.free_slots:
        return Term("slots", "", was.node, before=was.free_slots, after=now.free_slots)
    if recorded.kind == would.kind and recorded.evicts != would.evicts:
        return Term("cost", "evict", was.node, before=was.evict_ms, after=now.evict_ms)
    return ORDER


def as_term(kind: str, found: Verdict) -> Term:
    """A filter with its figures."""
    return Term(kind, found.filter, found.node, found.value, found.limit)


def dearest(chosen: Verdict, chosen_now: Verdict, other: Verdict, other_now: Verdict) -> Term:
    """The term that did most to make the other node the cheaper one, on the node where it moved more."""
    best, most_ms = ORDER, 0
    for name in TERMS:
        dearer_ms = term_ms(chosen_now, name) - term_ms(chosen, name)
        cheaper_ms = term_ms(other, name) - term_ms(other_now, name)
        if dearer_ms + cheaper_ms <= most_ms:
            continue
        most_ms = dearer_ms + cheaper_ms
        was, now = (chosen, chosen_now) if dearer_ms >= cheaper_ms else (other, other_now)
        figures = abs(term_ms(was, name)), abs(term_ms(now, name))
        best = Term("cost", name, was.node, before=figures[0], after=figures[1])
    return best


def term_ms(verdict: Verdict, name: str) -> int:
    """What a term adds to the cost."""
    ms = int(getattr(verdict, f"{name}_ms"))
    return -ms if name == "cached" else ms


def mark_of(node: Node, reason: str, policy: Policy) -> tuple[int, int]:
    """What a node's mark is held against: the upper one while that is passed, then the lower one."""
    if reason == "hot":
        value, upper, lower = node.temp_mc or 0, policy.temp_max_mc, policy.temp_return_mc
    else:
        value, upper, lower = ram_permille(node), policy.ram_max_permille, policy.ram_return_permille
    return value, upper if value > upper else lower


def why_given_up(grid: Grid, event: AttemptAbandoned) -> Term:
    """The figures behind an attempt that is given up."""
    name, reason, policy = event.node, event.reason, grid.policy
    node = grid.nodes.get(name)
    if node is None:
        return Term("filter", "removed", name)
    held = node.holdings.get(event.work_id)
    since_ms = grid.at_ms - held.since_ms if held is not None else 0
    silent_ms = grid.at_ms - node.heard_ms if node.heard_ms is not None else 0
    figures = {
        "hot": mark_of(node, "hot", policy),
        "ram": mark_of(node, "ram", policy),
        "critical": (node.temp_mc or 0, policy.temp_critical_mc),
        "overdue": (since_ms, policy.attempt_deadline_ms),
        "silent": (silent_ms, policy.stale_ms),
        "gone": (held.missing if held is not None else 0, policy.gone_samples),
    }
    return Term("filter", reason, name, *figures.get(reason, (0, 0)))


def limit_of(end: Answer, request: Request, policy: Policy) -> Term:
    """The limit of the rules that ends a request without an answer."""
    limits = {"attempts_exhausted": policy.max_attempts, "refused": policy.max_refusals}
    return Term("rule", end.code or end.kind, "", len(request.failures), limits.get(end.code, 0))
