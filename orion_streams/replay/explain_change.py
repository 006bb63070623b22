"""Explain why two decisions differ: a filter that only one of them met, or a term of the cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from orion_streams.model.events import AttemptAbandoned
from orion_streams.model.marks import ram_permille
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node, Request
from orion_streams.model.verdict import TERMS, Verdict
from orion_streams.model.vocabulary import Filter


class Answer(Struct, frozen=True):
    """One decision in short. Kinds about a request: `routed` to `node`, `deferred` (`code` busy, for
    `node`, or no_node), `failed` with `code`, `expired`, `given_up` for the reason `code` (and routed to
    `node` next, if anywhere), `goes_on`. About a node: `out` for `code` (its marks, or breaker),
    `in_service`, `load` or `unload` of the model `code`. Else `nothing`. `evicts`: models that are evicted
    for it."""

    kind: str
    node: str = ""
    code: str = ""
    evicts: tuple[str, ...] = ()


class Term(Struct, frozen=True):
    """The reason why a decision changed, by `kind`:

    - filter: `name` newly excludes `node`, as `value` is beyond `limit`; lifted: it no longer does (figures
      as recorded);
    - cost: the term `name` on `node`, in ms `before` and `after`;
    - slots: free slots of `node`, `before` and `after`, and the request `name` that takes one instead;
    - order: that request is served first;
    - rule: another limit of the rules, `name` the code of the end;
    - plan: other models are wanted in memory.
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
    """Name what changed the placement of a request, given the verdicts of both decisions."""
    before, after = ({each.node: each for each in verdicts} for verdicts in (was, now))
    chosen, other = recorded.node, would.node
    for kind, node, verdicts, absent in (
        ("filter", chosen, after, Filter("removed")),
        ("lifted", other, before, Filter("added")),
    ):
        found = verdicts.get(node, Verdict(node=node, filter=absent))
        if node and found.filter:
            return as_term(kind, found)
    if not chosen:
        return new_filter(before, now)
    if other in ("", chosen):
        return same_node(recorded, would, before[chosen], after[chosen])
    return dearest(before[chosen], after[chosen], before[other], after[other])


def new_filter(before: dict[str, Verdict], now: Sequence[Verdict]) -> Term:
    """Find the first node that a filter excludes which did not exclude it before."""
    for found in now:
        known = before.get(found.node)
        if found.filter and (known is None or found.filter != known.filter):
            return as_term("filter", found)
    return ORDER


def same_node(recorded: Answer, would: Answer, was: Verdict, now: Verdict) -> Term:
    """Explain why the same node starts the request sooner or later, or evicts other models for it."""
    if recorded.kind != would.kind and was.free_slots != now.free_slots:
        return Term("slots", "", was.node, before=was.free_slots, after=now.free_slots)
    if recorded.kind == would.kind and recorded.evicts != would.evicts:
        return Term("cost", "evict", was.node, before=was.evict_ms, after=now.evict_ms)
    return ORDER


def as_term(kind: str, found: Verdict) -> Term:
    """Convert a filtered verdict."""
    return Term(kind, found.filter, found.node, found.value, found.limit)


def dearest(chosen: Verdict, chosen_now: Verdict, other: Verdict, other_now: Verdict) -> Term:
    """Find the term that did most to make the other node cheaper, on the node where it changed more."""
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
    """Return what a term adds to the cost; negative for what is subtracted."""
    ms = int(getattr(verdict, f"{name}_ms"))
    return -ms if name == "cached" else ms


def mark_of(node: Node, reason: str, policy: Policy) -> tuple[int, int]:
    """Return a node's value and the mark that applies: the upper one while above it, else the lower one."""
    if reason == "hot":
        value, upper, lower = node.temp_mc or 0, policy.temp_max_mc, policy.temp_return_mc
    else:
        value, upper, lower = ram_permille(node), policy.ram_max_permille, policy.ram_return_permille
    return value, upper if value > upper else lower


def why_given_up(grid: Grid, event: AttemptAbandoned) -> Term:
    """Explain an abandoned attempt by its reason, value and limit."""
    name, reason, policy = event.node, event.reason, grid.policy
    node = grid.nodes.get(name)
    if node is None:
        return Term("filter", "removed", name)
    held = node.assignments.get(event.work_id)
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
    """Name the limit of the rules that ends a request without an answer."""
    limits = {"attempts_exhausted": policy.max_attempts, "refused": policy.max_refusals}
    return Term("rule", end.code or end.kind, "", len(request.failures), limits.get(end.code, 0))
