"""Changed decisions in sentences, like ones together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from orion_streams.model.text import WORD_FOR, degrees, duration, held_back, seconds, why_abandoned
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter
from orion_streams.replay.compare_decisions import Changed
from orion_streams.replay.explain_change import Answer, Term

MOST_NAMED = 3
"""So many of those that one sentence is about are named."""
SELF_EXPLAINED = ("give_up", "backoff", "breaker")
"""Kinds of decisions whose term is the reason for what was done, and for what would have been."""
WORDS = {
    "drain": "what it does first",
    "load": "the load",
    "evict": f"what its load costs {WORD_FOR['evict']}",
    "prefill": "reading the prompt",
    "cached": "the part of the prompt that it knows",
    "decode": "the answer",
    "heat": "its warmth",
    "spill": "being off its tier",
    "retry": "having failed there before",
    "late": "old health",
}
"""The terms of a cost."""


class Told(NamedTuple):
    """What would have been otherwise, so many `times`, with the reason; the first of those it is about."""

    times: int
    sentence: str
    examples: str


def told(decisions: Sequence[Changed]) -> list[Told]:
    """Put decisions that changed alike together, those that happened most first."""
    groups: dict[tuple[str, ...], list[Changed]] = {}
    for each in decisions:
        groups.setdefault(likeness(each), []).append(each)
    found = [Told(len(those), sentence(those), examples(those)) for those in groups.values()]
    return sorted(found, key=lambda each: -each.times)


def likeness(each: Changed) -> tuple[str, ...]:
    """Return what decisions have in common that one sentence is about."""
    name = "" if each.term.kind in ("slots", "order") else each.term.name
    return each.kind, "" if each.request else each.node, what(each), each.term.kind, name, each.term.node


def sentence(those: Sequence[Changed]) -> str:
    """Say what would have been otherwise, and why."""
    first, count = those[0], len(those)
    if first.request:
        noun = "attempt" if first.kind == "give_up" else "request"
        subject, times = f"{count:,} {noun}{'' if count == 1 else 's'}", ""
    else:
        subject, times = first.node, f" {count:,} times" if count > 1 else ""
    if first.kind in SELF_EXPLAINED:
        eg = "e.g. " if count > 1 else ""
        return f"{subject} would{times} {what(first)} ({eg}{obstacle(first.term)})"
    return f"{subject} would{times} {what(first)}, because {because(first.term, count > 1)}"


def what(each: Changed) -> str:
    """Say how a decision would have been another one."""
    was, now = each.recorded, each.would
    if was.kind == "given_up":
        return f"have gone on at {each.node} instead of being given up"
    if now.kind == "given_up":
        return f"have been given up at {each.node}" + (f" and sent to {now.node}" if now.node else "")
    if "nothing" in (was.kind, now.kind):
        order = now if was.kind == "nothing" else was
        no = "" if was.kind == "nothing" else "not "
        return f"{no}have been told to {order.kind} {order.code}"
    if now.kind == "in_service":
        return "have been in service when it was out"
    if now.kind == "out":
        instead = f"out for another reason: {outage(was)}" if was.kind == "out" else "in service"
        return f"have been out when it was {instead}"
    return f"have {done(was, now)} instead of {doing(was, now)}"


def outage(found: Answer) -> str:
    """Say why a node is out."""
    words = {"hot": "too hot", "ram": "memory too full", "breaker": "breaker open"}
    return " and ".join(words.get(code, code) for code in found.code.split())


def done(was: Answer, now: Answer) -> str:
    """Say what would have been done with a request."""
    match now.kind:
        case "routed" if was.kind == "routed" and was.node == now.node:
            return f"gone to {now.node}, {unloading(now)},"
        case "routed":
            return f"gone to {now.node}" + (f", {unloading(now)}," if now.evicts else "")
        case "deferred":
            return f"waited {waiting(now)}"
        case "expired":
            return "expired"
        case _:
            return f"ended as an error ({now.code})"


def doing(was: Answer, now: Answer) -> str:
    """Say what was done with a request."""
    match was.kind:
        case "routed" if now.node == was.node and now.kind == "routed":
            return unloading(was)
        case "routed":
            if now.kind == "routed":
                return f"to {was.node}"
            return "going there at once" if now.node == was.node else f"going to {was.node}"
        case "deferred" if was.node and now.node == was.node:
            return "waiting for it"
        case "deferred":
            return f"waiting {waiting(was)}"
        case "expired":
            return "expiring"
        case "failed":
            return f"ending as an error ({was.code})"
        case other:
            return other.replace("_", " ")


def unloading(found: Answer) -> str:
    """Say what goes for a request."""
    return f"unloading {', '.join(found.evicts) or 'nothing'}"


def waiting(found: Answer) -> str:
    """Say what a request waits for."""
    match found.code:
        case "no_node":
            return "with no node to take it"
        case "quiet":
            return "for quiet hours to end"
        case "drained":
            return "for a drained node"
    return f"for {found.node or 'a turn'}"


def because(found: Term, is_example: bool = False) -> str:
    """Describe the term that turned a decision; `is_example`: its figures are those of one of many."""
    eg = "e.g. " if is_example else ""
    match found.kind:
        case "filter":
            return f"{found.node} would have been held back ({eg}{obstacle(found)})"
        case "lifted":
            return f"{found.node} would not have been held back ({eg}{obstacle(found)})"
        case "cost":
            words = WORDS.get(found.name, found.name)
            figures = f"{eg}{duration(found.after)}, not {duration(found.before)}"
            return f"{found.node} would have counted otherwise for {words} ({figures})"
        case "slots":
            taken = f"; {found.name} would have taken one" if found.name else ""
            figures = f"{eg}{found.after} free slots, not {found.before}{taken}"
            return f"{found.node} would have had other work ({figures})"
        case "order":
            first = f" ({eg}{found.name})" if found.name else ""
            return f"another request{first} would have been served first"
        case "rule":
            limit = f": {found.value} of {found.limit}" if found.limit else ""
            return f"the rules for its end would have been others ({found.name}{limit})"
        case _:
            return "other models would have been wanted in memory"


def obstacle(found: Term) -> str:
    """Describe a filter, or why an attempt is given up, with its figures."""
    units: dict[str, Callable[[int], str]] = {"critical": degrees, "overdue": seconds, "gone": str}
    match found.name:
        case "removed" | "added":
            return f"{found.name} by the rules"
        case "role":
            return "it takes no requests"
        case "breaker" if found.limit < 100:
            return f"failures in a row: {found.value}, limit {found.limit}"
        case name if name in units:
            figures = f"{units[name](found.value)}, limit {units[name](found.limit)}"
            return f"{why_abandoned(name)}: {figures}"
        case name:
            why = Filter.STALE if name == "silent" and found.limit else Filter(name)
            return held_back(Verdict(node=found.node, filter=why, value=found.value, limit=found.limit))


def examples(those: Sequence[Changed]) -> str:
    """Name the first of those that a sentence is about, with time and position."""
    named = ", ".join(example(each) for each in those[:MOST_NAMED])
    more = len(those) - MOST_NAMED
    return named + (f" and {more:,} more" if more > 0 else "")


def example(each: Changed) -> str:
    """Name one: its request, if it has one, when, and its position in the log."""
    at = f"{datetime.fromtimestamp(each.server_ms / 1000):%H:%M:%S} (position {each.position})"
    attempt = f" (attempt {each.attempt})" if each.attempt > 1 else ""
    return f"{each.request}{attempt} at {at}" if each.request else f"at {at}"
