"""A process of the grid ends at every single await of a request's life: the promise holds each time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from uuid import uuid4

import pytest
import redis as sync_redis

from orion_streams.channels import App
from orion_streams.server import EmbeddedServer
from tests.crash.life import PLANS, Life, Plan, live
from tests.crash.mortal import all_of, mortality

TOGETHER = 5
"""Lives at a time. When none of them came to its point, none has so many."""
FEWEST_POINTS = 25
"""A life has far more; with fewer the counting is broken, and the test would say nothing."""


@pytest.fixture(scope="module")
def exact_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose streams are trimmed to the entry, not by the hundred."""
    with EmbeddedServer(tmp_path_factory.mktemp("exact")) as server:
        with sync_redis.Redis.from_url(server.url) as client:
            client.config_set("stream-node-max-entries", 1)
        yield server.url


@pytest.fixture(scope="module")
def app() -> App:
    """What a channel wants to know of its app."""
    return App("crash")


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
