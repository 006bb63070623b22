"""The small faults of home life, for `orion chaos --soak`: one at a time, and nobody is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.chaos_grid import INFERENCE, ChaosGrid
from tests.chaos.lasting import lasts

REBOOTED = "orion-worker"
"""The other node's agent runs from beginning to end: what it loses is seen."""
STEP_S = 300
HOT_MC, MILD_MC = 78_000, 45_000


@dataclass(frozen=True)
class Home:
    """What the faults act on."""

    grid: ChaosGrid
    rng: random.Random


async def reboot(home: Home) -> None:
    """A Pi is pulled and plugged in again: its agent and its Ollama, with what that had in memory."""
    await asyncio.gather(home.grid.kill_agent(REBOOTED), home.grid.ollamas[REBOOTED].kill())
    await lasts(home.rng.uniform(2, 8))
    await asyncio.gather(home.grid.start_agent(REBOOTED), home.grid.start_ollama(REBOOTED))


async def cut_wifi(home: Home) -> None:
    """A node hears nothing for a while; then all its connections are new ones."""
    proxy = home.grid.proxies[f"agent {home.rng.choice(INFERENCE)}"]
    proxy.part()
    try:
        await lasts(home.rng.uniform(1, 8))
    finally:
        proxy.cut()
        proxy.join()


async def cut_house(home: Home) -> None:
    """The access point restarts: every connection breaks at once."""
    for proxy in home.grid.proxies.values():
        proxy.cut()


async def hot_afternoon(home: Home) -> None:
    """The room gets so hot that a node that works passes its mark, and cools down again."""
    node = home.rng.choice(INFERENCE)
    await home.grid.push(node, ambient_mc=HOT_MC)
    try:
        await lasts(home.rng.uniform(5, 15))
    finally:
        await home.grid.push(node, ambient_mc=MILD_MC)


async def step_clock(home: Home) -> None:
    """The server's clock is wrong by five minutes, and put right."""
    home.grid.move_clock(home.rng.choice((-STEP_S, STEP_S)))
    try:
        await lasts(home.rng.uniform(2, 10))
    finally:
        home.grid.move_clock(0)


HOME_FAULTS: tuple[Callable[[Home], Awaitable[None]], ...] = (
    reboot,
    cut_wifi,
    cut_house,
    hot_afternoon,
    step_clock,
)
