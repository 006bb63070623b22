"""What the page is looked at with: a quiet grid, a hot afternoon, a dead node, a long queue, no node."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.page.page_stage import (
    BIG,
    CLIENTS,
    CODER,
    EDGE,
    MASTER,
    MORE_MODELS,
    SMALL,
    WORKER,
    PageStage,
)

MINUTES = 11.0
DEAD_MINUTES = 2.0
EVERYBODY = ("brain", *CLIENTS)
MANY = 200
CELLAR = tuple(f"machine-in-the-cellar-number-{n}" for n in range(5))
WARMTH = {MASTER: 52.0, WORKER: 57.0, EDGE: 46.0}


def breathes(stage: PageStage, left: float, **warmer: float) -> None:
    """Temperatures that rise and fall a little, as they do; `warmer`: some by so many degrees."""
    for n, (name, node) in enumerate(stage.nodes.items()):
        if node.health is not None:
            wave = 2.2 * math.sin(left * 0.9 + 2 * n) + 0.5 * math.sin(left * 9.7 + n)
            degrees = WARMTH.get(name, 50.0 + 3 * n) + wave + warmer.get(name.removeprefix("orion-"), 0.0)
            node.health["temp_mc"] = round(degrees * 1000)


async def quiet(stage: PageStage) -> None:
    """One answers, one is free."""
    stage.nodes[WORKER].holds(SMALL)
    stage.nodes[MASTER].holds(BIG)
    await stage.passes(MINUTES, lambda left: breathes(stage, left), every=24)
    await stage.asked(1)
    await stage.step()


async def hot(stage: PageStage) -> None:
    """The worker has passed the mark; the master answers, and many wait."""
    stage.nodes[MASTER].holds(SMALL, BIG)
    stage.nodes[WORKER].holds(SMALL)

    def warms(left: float) -> None:
        breathes(stage, left, worker=22 * (1 - left / MINUTES), master=9 * (1 - left / MINUTES))

    await stage.passes(MINUTES, warms, every=24)
    await stage.asked(9, EVERYBODY, (SMALL, BIG, CODER))
    await stage.step()


async def rising(stage: PageStage) -> None:
    """The worker warms up so fast that it begins nothing; what asks for its model waits."""
    stage.nodes[MASTER].holds(BIG)
    stage.nodes[WORKER].holds(SMALL)
    await stage.passes(
        MINUTES, lambda left: breathes(stage, left, worker=24 * max(0.0, 0.5 - left), master=-9)
    )
    await stage.asked(9, EVERYBODY, (SMALL, BIG, CODER))
    await stage.step()


async def tired(stage: PageStage) -> None:
    """The worker answers and warms up as fast; with it many models are in memory."""
    stage.nodes[MASTER].holds(BIG)
    stage.nodes[WORKER].holds(SMALL, BIG, CODER, *MORE_MODELS)
    await stage.passes(MINUTES - 1, lambda left: breathes(stage, left, master=-9))
    await stage.asked(1, models=(CODER,))
    await stage.step()
    await stage.passes(1.0, lambda left: breathes(stage, left, worker=24 * max(0.0, 0.5 - left), master=-9))
    await stage.step()


async def dead(stage: PageStage) -> None:
    """The master is silent for two minutes; the worker answers."""
    stage.nodes[MASTER].holds(BIG)
    stage.nodes[WORKER].holds(SMALL)

    def dies(left: float) -> None:
        breathes(stage, left)
        if left < DEAD_MINUTES:
            stage.nodes[MASTER].health = None

    await stage.passes(MINUTES, dies)
    await stage.asked(4, EVERYBODY)
    await stage.step()


async def many(stage: PageStage) -> None:
    """Two answer, and two hundred wait."""
    stage.nodes[MASTER].holds(SMALL)
    stage.nodes[WORKER].holds(SMALL)
    await stage.passes(MINUTES, lambda left: breathes(stage, left, worker=6, master=9))
    await stage.asked(MANY + 2, EVERYBODY, (SMALL, BIG, CODER))
    await stage.step()


async def crowd(stage: PageStage) -> None:
    """Eight nodes with long names, of which some answer and one is hot."""
    for node in stage.nodes.values():
        node.holds(SMALL, BIG)
    await stage.passes(MINUTES, lambda left: breathes(stage, left, worker=22 * (1 - left / MINUTES)))
    await stage.asked(24, EVERYBODY, (SMALL, BIG, CODER))
    await stage.step()


async def nobody(stage: PageStage) -> None:
    """No node was ever heard from."""
    for node in stage.nodes.values():
        node.health = None
    await stage.step()


class Scene(NamedTuple):
    """How a grid came to be as it is, since when, and words that the page then says; `more`: nodes beside
    the house's three."""

    prepare: Callable[[PageStage], Awaitable[None]]
    minutes: float
    words: tuple[str, ...]
    more: tuple[str, ...] = ()


SCENES = {
    "quiet": Scene(
        quiet, MINUTES, ("All well, 1 answering, 1 free", "Nobody waits", "kinematics only", SMALL)
    ),
    "hot": Scene(hot, MINUTES, ("Worker hot, back below 70 °C", "goes on below 70 °C", "requests wait")),
    "rising": Scene(
        rising,
        MINUTES,
        ("Worker cools down before it passes 75 °C", "begins again once it stays below 75 °C"),
    ),
    "tired": Scene(tired, MINUTES, ("Worker cools down before it passes 75 °C", "tokens/s", CODER, "+2")),
    "dead": Scene(dead, MINUTES, ("Master silent since 2 min", "goes on once it is heard again")),
    "many": Scene(many, MINUTES, ("200 requests wait", "All well, 2 answering, 200 waiting")),
    "crowd": Scene(crowd, MINUTES, ("Worker hot", "requests wait", "machine-in-the-"), CELLAR),
    "nobody": Scene(nobody, 0.0, ("Nobody answers", "never heard from", "Nobody waits")),
}
