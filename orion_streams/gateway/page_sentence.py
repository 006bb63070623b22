"""The page's one large sentence, and how bad it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orion_streams.decider.route import open_slots, remaining_ms, running
from orion_streams.gateway.grid_state import NEVER_RUN, NOBODY, ROUTER_SILENT, Health
from orion_streams.gateway.page_nodes import AVAILABLE, DEAD
from orion_streams.gateway.page_rows import BAD, OK, WARN, NodeCard
from orion_streams.gateway.page_words import about, capital, degree, passed, share, short
from orion_streams.gateway.view_models import NO_MODELS
from orion_streams.model.marks import is_heard
from orion_streams.model.state import Grid, Node, Run
from orion_streams.model.text import held_back
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter
from orion_streams.protocol.public_row import SILENT_MS

AWAY_MS = 5_000
"""Redis is looked at every second: after so long it is away."""
MOST_NAMED = 2
"""So many nodes stand in the sentence; the others are counted."""


class Said(NamedTuple):
    """A tone and a sentence. `told`: how reasons begin that say the same."""

    tone: str
    text: str
    told: tuple[str, ...] = ()


def sentence(
    grid: Grid, cards: Sequence[NodeCard], found: Health, silent_ms: int, heard_ms_ago: int
) -> Said:
    """Return the sentence: the first thing that is wrong, else how it goes."""
    if heard_ms_ago > AWAY_MS:
        return Said(BAD, f"Cannot hear Redis since {passed(heard_ms_ago)}")
    if not grid.position:
        return Said(BAD, "No router has run on this Redis yet", (NEVER_RUN,))
    if silent_ms > SILENT_MS:
        text = f"No router since {passed(silent_ms)}: until it is back nothing is decided"
        return Said(BAD, text, (ROUTER_SILENT,))
    if not cards:
        return Said(BAD, "No node at all: no rules are in force yet")
    serving = [each for each in cards if each.inference]
    if not serving:
        return Said(BAD, "No node answers requests: streams.toml names none with inference", (NOBODY,))
    away = [each for each in serving if each.why]
    if away:
        return nodes_away(grid, away, len(serving))
    stranded = next((each for each in found.reasons if each.startswith("no node takes")), "")
    if stranded:
        return Said(WARN, capital(stranded), (stranded,))
    return Said(OK, all_well(grid))


def nodes_away(grid: Grid, away: Sequence[NodeCard], serving: int) -> Said:
    """Say which nodes take nothing; the dead first, those that cool down in time last. Bad if nobody
    answers, or one is broken."""
    ranked = sorted(
        away,
        key=lambda each: (each.state not in DEAD, each.tone != BAD, each.state == AVAILABLE, each.name),
    )
    named = [in_short(grid, each) for each in ranked[:MOST_NAMED]]
    told = tuple(f"{each.name}: " for each in ranked[:MOST_NAMED])
    more = len(ranked) - len(named)
    if more:
        named.append(f"{more} more")
    if len(named) > 1:
        named[-1] = f"and {named[-1]}"
    text = " ".join(named) if len(named) == 2 else ", ".join(named)
    if len(away) < serving or any(each.state == AVAILABLE for each in away):
        return Said(ranked[0].tone, capital(text), told)
    return Said(BAD, f"Nobody answers: {text}", told)


def in_short(grid: Grid, card: NodeCard) -> str:
    """Say what is with a node, in a few words: `worker hot, back below 70 °C`."""
    name, policy = short(card.name), grid.policy
    match card.state:
        case Filter.HOT:
            return f"{name} hot, back below {degree(policy.temp_return_mc)}"
        case state if state == AVAILABLE:
            return f"{name} cools down before it passes {degree(policy.temp_max_mc)}"
        case Filter.RAM:
            return f"{name} full, back below {share(policy.ram_return_permille)} of its memory"
        case Filter.STALE if card.heard_ms_ago is not None:
            return f"{name} silent since {passed(card.heard_ms_ago)}"
        case Filter.SILENT:
            return f"{name} never heard from"
        case Filter.LEFT:
            return f"{name} has left"
        case Filter.DRAINED | Filter.QUIET:
            return f"{name} {card.why}"
        case Filter.LEAVING:
            return f"{name} is leaving"
        case Filter.BREAKER:
            return f"{name} fails, {card.until}"
        case state if state == NO_MODELS:
            return f"{name} has no model"
        case Filter.TOO_LARGE | Filter.PLACES | Filter.MEMORY:
            return f"{name} has no room for its models"
        case state:
            return f"{name}: {held_back(Verdict(node=card.name, filter=Filter(state)))}"


def all_well(grid: Grid) -> str:
    """Say how much is answered, how many wait, and when somebody is free."""
    nodes = [node for node in grid.nodes.values() if node.rules.takes_inference and is_heard(grid, node)]
    answering = sum(running(node) for node in nodes)
    waiting = sum(not each.work_id for each in grid.open.values())
    free = sum(max(open_slots(grid, node) - running(node), 0) for node in nodes)
    parts = ["All well"]
    if answering:
        parts.append(f"{answering} answering")
    if waiting:
        parts.append(f"{waiting} waiting")
    if not answering and not waiting:
        parts.append("nobody asks")
    if free and answering and not waiting:
        parts.append(f"{free} free")
    elif (waiting or not free) and (next_ms := next_free_ms(grid, nodes)) is not None:
        parts.append(f"next free in about {about(next_ms)}")
    return ", ".join(parts)


def next_free_ms(grid: Grid, nodes: Sequence[Node]) -> int | None:
    """Return when a run is expected to end; None if nothing runs."""
    left = [
        remaining_ms(grid, held)
        for node in nodes
        for held in node.assignments.values()
        if isinstance(held, Run)
    ]
    return min(left, default=None)
