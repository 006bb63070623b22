"""What took a request so long, in words with times. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.model.text import degrees, duration, held_back, ram, seconds
from orion_streams.model.verdict import Verdict
from orion_streams.replay.incident_facts import Delay, SlowRequest
from orion_streams.replay.request_delays import MAX_TURNS

LEAST_MS, LEAST_PERMILLE = 100, 30
"""A part that took less, or less of the whole, is not worth a word."""
MOST_NAMED = 3
"""So many models of others, and nodes that are out, are named."""


def said(row: SlowRequest) -> str:
    """Name the parts of a request's time in their order: what it waited for, its load, its run."""
    ended = row.ended
    least_ms = max(ended.age_ms * LEAST_PERMILLE // 1000, LEAST_MS)
    parts = [of_delay(each) for each in row.delays if lasted(each) >= least_ms]
    load_ms = min(ended.load_ms, ended.run_ms)
    if load_ms >= least_ms:
        parts.append(f"{duration(load_ms)} loading {ended.model}")
    if ended.run_ms - load_ms >= least_ms:
        warm = f" (about {seconds(row.heat_ms)} of it lost to heat)" if row.heat_ms >= 1000 else ""
        what = "answering" if ended.outcome == "done" else "running"
        parts.append(f"{duration(ended.run_ms - load_ms)} {what} on {ended.node}{warm}")
    rest_ms = ended.age_ms - sum(map(lasted, row.delays)) - ended.run_ms
    if rest_ms >= least_ms:
        parts.append(f"{duration(rest_ms)} until its end was known")
    return "; ".join(parts)


def lasted(delay: Delay) -> int:
    """Return how long a delay took, in ms."""
    return delay.length_ms(delay.begin)


def of_delay(each: Delay) -> str:
    """Say what a stretch was spent on."""
    for_ms = duration(lasted(each))
    match each.kind:
        case "busy":
            return f"{for_ms} waiting for {each.node or 'its turn'}{behind(each)}{meanwhile(each)}"
        case "no_node" | "quiet" | "drained":
            why = ", ".join(f"{held.node} {out_for(held)}" for held in each.held[:MOST_NAMED])
            return f"{for_ms} with no node to take it" + (f" ({why})" if why else "")
        case "sent":
            return f"{for_ms} on {each.node} before it began"
        case "failed":
            return f"{for_ms} on {each.node} in vain ({each.code.replace('_', ' ')})"
        case "before":
            return f"{for_ms} before this log begins"
        case _:
            return f"{for_ms} before the router placed it"


def behind(each: Delay) -> str:
    """Say which runs its node had meanwhile."""
    total = sum(count for _, _, count in each.ahead)
    if not total:
        return ""
    least = "at least " if total >= MAX_TURNS else ""
    named: dict[str, list[str]] = {}
    for client, model, count in each.ahead[:MOST_NAMED]:
        named.setdefault(client, []).append(f"{count} {model}")
    whose = ", ".join(f"{' and '.join(models)} of {client}" for client, models in named.items())
    more = sum(count for _, _, count in each.ahead[MOST_NAMED:])
    return f" behind {least}{whose}" + (f" and {more} more" if more else "")


def meanwhile(each: Delay) -> str:
    """Say which other nodes could not take it."""
    out = [held for held in each.held if held.node != each.node][:MOST_NAMED]
    return f" ({', '.join(f'{held.node} {out_for(held)}' for held in out)})" if out else ""


def out_for(held: Verdict) -> str:
    """Say in short why a node was out."""
    match held.filter:
        case "hot":
            return f"too hot at {degrees(held.value)}"
        case "memory" | "places":
            return "without room for it"
        case "ram":
            return f"too full at {ram(held.value)}"
        case "stale" | "silent":
            return "not heard from"
        case "breaker":
            return "shut out by its breaker"
        case "paused":
            return "paused, as it had failed there"
        case _:
            return f"out: {held_back(held)}"


PARTS: dict[str, str] = {
    "before": "before this log begins",
    "unplaced": "before the router placed them",
    "busy": "waiting for a busy node",
    "no_node": "with no node to take them",
    "quiet": "waiting for quiet hours to end",
    "drained": "waiting for drained nodes",
    "sent": "on their node, before they began",
    "failed": "in attempts that gave no answer",
    "load": "loading models",
    "answer": "answering",
}
"""What the time of all requests was spent on."""


def spent_on(spent: dict[str, int]) -> Iterator[tuple[str, str, int]]:
    """Yield what was spent, with its words, in the order of a request's life."""
    yield from ((kind, PARTS[kind], spent[kind]) for kind in PARTS if spent.get(kind))
