"""A process of the grid ends at every single await of a request's life: the promise holds each time."""

from __future__ import annotations

from itertools import count
from uuid import uuid4

import pytest

from orion_streams.runtime.faust_redis import App
from tests.crash.life import PLANS, Life, Plan, live
from tests.crash.mortal import all_of, mortality

TOGETHER = 5
"""Lives at a time. When none of them came to its point, none has so many."""
FEWEST_POINTS = 25
"""A life has far more; with fewer the counting is broken, and the test would say nothing."""


@pytest.mark.parametrize(
    ("victim", "how"),
    [("router", "kill"), ("router", "stop"), ("agent", "kill"), ("agent", "stop"), ("agent", "withdraw")],
)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
async def test_the_promise_holds_at_every_point(
    exact_url: str, app: App, plan: Plan, victim: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, told to stop, or its run cancelled, at await number 1, 2, 3 … until lives pass unharmed: one
    terminal reply, one dispatch per attempt, gapless tokens, a log whose fold is the live state."""
    if plan.trimmed:
        monkeypatch.setattr("orion_streams.agents.apps.KEEP_EVERY_S", 0.0)
    points = await sweep(exact_url, app, plan, victim, how)
    print(f"\n{plan.name}: {how} of the {victim} at {points} points")
    assert points > FEWEST_POINTS


async def sweep(url: str, app: App, plan: Plan, victim: str, how: str) -> int:
    """One life for each point, `TOGETHER` of them at a time. How many points there were."""
    points = 0
    with mortality():
        for first in count(1, TOGETHER):
            lives = [Life(url, f"t{uuid4().hex[:12]}:", plan, app) for _ in range(TOGETHER)]
            places = range(first, first + TOGETHER)
            running = (live(life, victim, at, how) for life, at in zip(lives, places, strict=True))
            struck = await all_of(running)
            points += sum(struck)
            if not any(struck):
                return points
    raise AssertionError("unreachable")
