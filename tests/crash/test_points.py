"""A process of the grid ends at the awaits of a request's life, one after the other: the promise holds each
time. `ORION_NIGHTLY=1` leaves none out."""

from __future__ import annotations

import os
from itertools import count, islice
from uuid import uuid4

import pytest

from orion_streams.runtime.faust_redis import App
from tests.crash.life import PLANS, Life, Plan, live
from tests.crash.mortal import all_of, mortality

TOGETHER = 5
"""Lives at a time. When none of them came to its point, none has so many."""
FEWEST_POINTS = 25
"""A life has far more; with fewer the counting is broken, and the test would say nothing."""
QUICK_STRIDE, STRIDE, PHOTO_STRIDE = 12, 2, 4
"""Every so manieth await is struck, another one for each victim; a life with a photo is the longest."""
NIGHTLY = os.environ.get("ORION_NIGHTLY") == "1"
LONG = pytest.mark.everything
VICTIMS = [
    ("router", "kill"),
    ("router", "stop"),
    ("agent", "kill"),
    ("agent", "stop"),
    ("agent", "withdraw"),
]


@pytest.mark.parametrize(("victim", "how"), VICTIMS)
@pytest.mark.parametrize(
    "plan",
    [pytest.param(each, id=each.name, marks=LONG if each.photo else ()) for each in PLANS],
)
async def test_the_promise_holds_at_every_point(
    *,
    exact_url: str,
    app: App,
    plan: Plan,
    victim: str,
    how: str,
    everything: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed, told to stop, or its run cancelled, at await number 1, 2, 3 … until lives pass unharmed: one
    terminal reply, one dispatch per attempt, gapless tokens, a log whose fold is the live state."""
    if plan.trimmed:
        monkeypatch.setattr("orion_streams.agents.apps.KEEP_EVERY_S", 0.0)
    stride = 1 if NIGHTLY else QUICK_STRIDE
    if everything and not NIGHTLY:
        stride = PHOTO_STRIDE if plan.photo else STRIDE
    first = 1 + (VICTIMS.index((victim, how)) + PLANS.index(plan)) % stride
    places = count(first, stride)
    last = 0
    with mortality():
        while struck := await strike(exact_url, app, plan, victim, how, [*islice(places, TOGETHER)]):
            last = max(struck)
    print(f"\n{plan.name}: {how} of the {victim} up to point {last}")
    assert last > FEWEST_POINTS


async def strike(url: str, app: App, plan: Plan, victim: str, how: str, places: list[int]) -> list[int]:
    """Live one life for each place, all at once; return the places that were come to."""
    lives = [Life(url, f"t{uuid4().hex[:12]}:", plan, app) for _ in places]
    struck = await all_of(live(life, victim, at, how) for life, at in zip(lives, places, strict=True))
    return [at for at, came in zip(places, struck, strict=True) if came]
