"""The policies that are compared: ours, and baselines as plain functions.

Every baseline has the same safety questions as ours and chooses only nodes that pass the same filters. It
assigns a request at once, however full the node is, as a proxy in front of Ollama does: the request queues
there. A model that is being loaded counts as resident. Without an eligible node a request waits. No policy
knows an answer's length before it ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from orion_streams.decider.decide import QUESTIONS, Question, breakers, ends, lost_attempts, relief, safety
from orion_streams.decider.route import route
from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Request

OURS, LOWER_BOUND = "ours", "lower-bound"
Pick = Callable[[Grid, Request, list[str]], str]
"""Chooses one of the eligible nodes, given in order."""

HOT, WARM, COLD, QUEUED = 50, 30, 10, -6
WARM_MS = 30 * 60_000
"""A model that was resident within this time is warm."""


def round_robin() -> Pick:
    """Choose the next node in turn."""
    last = ""

    def pick(grid: Grid, request: Request, eligible: list[str]) -> str:
        nonlocal last
        last = next((name for name in eligible if name > last), eligible[0])
        return last

    return pick


def least_connections(grid: Grid, request: Request, eligible: list[str]) -> str:
    """Choose the node with the fewest assignments."""
    return min(eligible, key=lambda name: (len(grid.nodes[name].assignments), name))


def at_random(seed: int) -> Pick:
    """Choose at random."""
    dice = random.Random(seed)  # noqa: S311 - a simulation
    return lambda grid, request, eligible: dice.choice(eligible)


def sticky_only(grid: Grid, request: Request, eligible: list[str]) -> str:
    """Choose a node that has the model, else any; of several the one with the fewest assignments."""
    having = [name for name in eligible if grid.nodes[name].has(request.model)]
    return least_connections(grid, request, having or eligible)


def points() -> Pick:
    """Choose by points: hot +50, warm +30, cold +10, -6 per assignment."""
    seen_ms: dict[tuple[str, str], int] = {}

    def score(grid: Grid, name: str, model: str) -> int:
        node = grid.nodes[name]
        known_ms = seen_ms.get((name, model))
        if node.has(model):
            base = HOT
        else:
            base = COLD if known_ms is None or grid.at_ms - known_ms > WARM_MS else WARM
        return base + QUEUED * len(node.assignments)

    def pick(grid: Grid, request: Request, eligible: list[str]) -> str:
        for name in eligible:
            for model in grid.nodes[name].resident:
                seen_ms[name, model] = grid.at_ms
        return min(eligible, key=lambda name: (-score(grid, name, request.model), name))

    return pick


def binding_at_once(pick: Pick) -> Question:
    """Make the placements of a baseline."""

    def placements(grid: Grid) -> Iterator[ev.AnyEvent]:
        waiting = [(key, request) for key, request in grid.open.items() if not request.work_id]
        for key, request in waiting:
            verdicts = route(grid, request).verdicts
            eligible = [each.node for each in verdicts if not each.filter]
            if eligible:
                node = pick(grid, request, eligible)
                yield ev.RequestRouted(
                    request=key,
                    attempt=request.attempt + 1,
                    node=node,
                    policy_id=grid.policy_id,
                    position=grid.position,
                    verdicts=verdicts,
                )

    return placements


PICKS: dict[str, Callable[[int], Pick]] = {
    "round-robin": lambda _: round_robin(),
    "least-connections": lambda _: least_connections,
    "random": at_random,
    "sticky-only": lambda _: sticky_only,
    "points": lambda _: points(),
}
BASELINES = tuple(PICKS)
POLICIES = (OURS, *BASELINES, LOWER_BOUND)


def questions_of(name: str, seed: int) -> tuple[Question, ...]:
    """Return the questions of a policy for `decide`."""
    if name not in PICKS:
        return QUESTIONS
    placements = binding_at_once(PICKS[name](seed))
    return (safety, relief, breakers, lost_attempts, ends, placements)
