"""What differs between two moments of a grid, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import to_builtins

from orion_streams.decider.placement import demand_of
from orion_streams.gateway.view_models import standing
from orion_streams.model.state import Grid, Length, Load, Node, Request, Run
from orion_streams.model.text import degrees, duration, gigabytes, held_back, seconds
from orion_streams.projections.requests import state_of
from orion_streams.replay.compare_states import ends, rules_in_force, walk

MOST_NAMED, MOST_LINES = 6, 12
"""So many requests are named in a line, so many lines stand below a title."""
LEAST_MC, LEAST_MB, LEAST_PERMILLE, LEAST_MILLI = 1_000, 100, 100, 500
"""Smaller changes are not told: of a temperature, of memory, of what was learned, of demand."""
STATES = {
    "available": "takes requests",
    "no_inference": "takes no requests, by its role",
    "no_models": "takes none: it has no model",
}
WHY = {
    "stale": "not heard from",
    "hot": "too hot",
    "hot of late": "too hot of late, and not calm yet",
    "ram": "its memory is too full",
    "ram of late": "its memory was too full of late, and is not calm yet",
    "breaker": "its breaker is open, after failures",
    "stuck_sensor": "its temperature does not move",
    "memory": "no room for any of its models",
    "places": "no place for any of its models",
    "too_large": "too small for any of its models",
}
"""Why a node takes nothing, where the usual words have figures."""
OUTCOMES = {
    "done": "answered",
    "error": "ended as an error",
    "expired": "expired",
    "cancelled": "cancelled",
}


class Chapter(NamedTuple):
    """A title, and what is said below it."""

    title: str
    lines: list[str]


def chapters(before: Grid, after: Grid) -> list[Chapter]:
    """Say what differs: rules, nodes, requests, and what was learned; only what does."""
    half = seconds(after.policy.demand_half_ms)
    found = [
        Chapter("Rules", list(of_rules(before, after))),
        *(
            Chapter(name, list(of_node(name, before, after)))
            for name in sorted({*before.nodes, *after.nodes})
        ),
        Chapter("Requests", list(of_requests(before, after))),
        Chapter("Learned", list(of_speeds(before, after))),
        Chapter(f"Requests of late (half as much after {half})", list(of_demand(before, after))),
    ]
    return [Chapter(title, bounded(lines)) for title, lines in found if lines]


def bounded(lines: list[str]) -> list[str]:
    """Keep the first lines."""
    left = len(lines) - MOST_LINES
    return lines if left <= 0 else [*lines[:MOST_LINES], f"… and {left} more; --json has them all"]


def of_rules(before: Grid, after: Grid) -> Iterator[str]:
    """Say which rules are others."""
    if not before.revision and after.revision:
        yield f"the first rules came into force, with {len(after.nodes)} nodes"
        return
    for each in walk("policy", rules_in_force(before), rules_in_force(after)):
        yield f"{each.path} is {each.after}, was {each.before}"
    if before.decider != after.decider:
        yield f"version {after.decider} of the code decides, was {before.decider}"
    for what, was, now in (
        ("model", before.models, after.models),
        ("client", before.clients, after.clients),
        ("guest", before.guests, after.guests),
    ):
        yield from of_table(what, to_builtins(was), to_builtins(now))


def of_table(what: str, was: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """Say whose rules came, went or changed."""
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            how = "are new" if name not in was else "are gone" if name not in now else "are others"
            yield f"the rules of the {what} {name} {how}"


def of_node(name: str, before: Grid, after: Grid) -> Iterator[str]:
    """Say what happened to a node."""
    was, now = before.nodes.get(name), after.nodes.get(name)
    if was is None or now is None:
        yield "is new" if was is None else "is no longer configured"
        if now is not None and now.heard_ms is not None:
            yield from of_memory(Node(now.rules), now)
        return
    states = state_words(before, was), state_words(after, now)
    if states[0] != states[1]:
        yield f"{states[1]}; before: {states[0]}"
    yield from of_agent(was, now)
    yield from of_health(was, now)
    yield from of_memory(was, now)
    yield from of_work(was, now)


def state_words(grid: Grid, node: Node) -> str:
    """Say whether a node takes requests, else why not; without figures, which move on."""
    found = standing(grid, node, grid.policy)
    state = found.filter or "available"
    if state in ("hot", "ram") and found.value <= found.limit:
        state = f"{state} of late"
    return STATES.get(state) or f"takes none: {WHY.get(state) or held_back(found)}"


def of_agent(was: Node, now: Node) -> Iterator[str]:
    """Say whether it is another agent."""
    if was.boot and now.boot != was.boot:
        yield "its agent was started anew"
    elif now.left and not was.left:
        yield "its agent said goodbye"
    if was.engine and now.engine != was.engine:
        yield f"its engine is {now.engine}, was {was.engine}"


def of_health(was: Node, now: Node) -> Iterator[str]:
    """Say how temperature and memory changed."""
    if was.heard_ms is None or now.heard_ms is None:
        if now.heard_ms is not None:
            heat = "" if now.temp_mc is None else f" at {degrees(now.temp_mc)}"
            yield f"was heard from for the first time{heat}"
        return
    if was.temp_mc is not None and now.temp_mc is not None and abs(now.temp_mc - was.temp_mc) >= LEAST_MC:
        yield f"{degrees(now.temp_mc)}, was {degrees(was.temp_mc)}"
    if abs(now.ram_used_mb - was.ram_used_mb) >= LEAST_MB:
        used = f"{gigabytes(now.ram_used_mb)} of {gigabytes(now.ram_total_mb)} GB"
        yield f"memory {used} used, was {gigabytes(was.ram_used_mb)} GB"


def of_memory(was: Node, now: Node) -> Iterator[str]:
    """Say which models came and went, in memory and on disk."""
    came = sorted(now.resident.keys() - was.resident.keys())
    if came:
        sizes = [f"{model} ({gigabytes(now.resident[model].size_mb)} GB)" for model in came]
        yield f"came into memory: {', '.join(sizes)}"
    for models, what in (
        (was.resident.keys() - now.resident.keys(), "left memory"),
        (now.installed.keys() - was.installed.keys(), "new on disk"),
        (was.installed.keys() - now.installed.keys(), "gone from disk"),
    ):
        if models:
            yield f"{what}: {', '.join(sorted(models))}"


def of_work(was: Node, now: Node) -> Iterator[str]:
    """Say what it works on now, if that is other work."""
    if was.assignments.keys() == now.assignments.keys():
        return
    runs = [held.request for held in now.assignments.values() if isinstance(held, Run)]
    loads = [f"the load of {held.model}" for held in now.assignments.values() if isinstance(held, Load)]
    yield f"has in hand: {named([*runs, *loads]) if runs or loads else 'nothing'}"


def of_requests(before: Grid, after: Grid) -> Iterator[str]:
    """Say which requests ended, which came, and where those stand that were open at both moments."""
    was, now = ends(before), ends(after)
    least = "at least " if was.keys() - now.keys() else ""  # ids are remembered for a while only
    ended: dict[str, list[str]] = {}
    for key, state in now.items():
        if key in before.open or key not in was:
            ended.setdefault(state, []).append(key)
    for state, words in OUTCOMES.items():
        if ended.get(state):
            yield f"{least}{len(ended[state])} {words}: {named(ended[state])}"
    gone = [key for key in before.open if key not in after.open and key not in now]
    if gone:
        yield f"{len(gone)} ended, how is no longer remembered: {named(gone)}"
    came = [key for key in after.open if key not in before.open]
    yield from of_open(came, after, "new")
    moved = [
        key
        for key, row in after.open.items()
        if key in before.open and where(row) != where(before.open[key])
    ]
    for key in moved:
        yield f"{key} is {where(after.open[key])}, was {where(before.open[key])}"


def of_open(keys: Sequence[str], grid: Grid, what: str) -> Iterator[str]:
    """Say where open requests stand, those at the same place together."""
    places: dict[str, list[str]] = {}
    for key in keys:
        places.setdefault(where(grid.open[key]), []).append(key)
    for place, those in places.items():
        yield f"{len(those)} {what}, {place}: {named(those)}"


def where(row: Request) -> str:
    """Say where an open request stands."""
    match state_of(row):
        case "running":
            return f"running on {row.node}"
        case "assigned":
            return f"about to begin on {row.node}"
        case _:
            return "waiting"


def named(names: Iterable[str]) -> str:
    """Name the first of many, and how many more there are."""
    every = list(names)
    more = len(every) - MOST_NAMED
    return ", ".join(every[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def of_speeds(before: Grid, after: Grid) -> Iterator[str]:
    """Say what runs taught about speeds and the length of answers, where it makes a difference."""
    for (node, model), now in sorted(after.speeds.items()):
        was = before.speeds.get((node, model))
        old_us = was.decode_us_per_token if was is not None else 0
        new_us = now.decode_us_per_token
        if new_us and differs(old_us, new_us):
            rate = f"{model} on {node} writes {rate_of(new_us)} tokens a second"
            yield rate + (f", was {rate_of(old_us)}" if old_us else ", learned now")
        old_ms = was.load_ms if was is not None else 0
        if now.load_ms and differs(old_ms, now.load_ms):
            load = f"{model} on {node} loads in {duration(now.load_ms)}"
            yield load + (f", was {duration(old_ms)}" if old_ms else ", learned now")
    for model, row in sorted(after.answers.items()):
        known = before.answers.get(model)
        if known is None or differs(known.milli, row.milli):
            length = f"answers of {model} have about {max(row.milli // 1000, 1)} tokens"
            yield length + (
                f", was {max(known.milli // 1000, 1)}" if known is not None else ", learned now"
            )


def tokens_of(row: Length) -> int:
    """Return the usual length of an answer in tokens."""
    return max(row.milli // 1000, 1)


def rate_of(us_per_token: int) -> str:
    """Format µs a token as tokens a second."""
    rate = 1_000_000 / us_per_token
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def differs(was: int, now: int) -> bool:
    """Whether a figure changed by more than a tenth."""
    return abs(now - was) * 1000 > was * LEAST_PERMILLE


def of_demand(before: Grid, after: Grid) -> Iterator[str]:
    """Say which models are asked for more or less."""
    was, now = Counter(demand_of(before)), Counter(demand_of(after))
    for model in sorted({*was, *now}):
        if abs(now[model] - was[model]) >= LEAST_MILLI:
            known = f"{was[model] / 1000:.1f}" if was[model] else "none"
            yield f"{model} {now[model] / 1000:.1f}, was {known}"


def passed(before: Grid, after: Grid) -> str:
    """Say how far apart the moments are."""
    if not before.server_ms or not after.server_ms:
        return ""
    ms = after.server_ms - before.server_ms
    return f", {seconds(abs(ms))} {'later' if ms >= 0 else 'earlier'}"
