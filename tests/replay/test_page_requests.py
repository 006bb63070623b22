"""The table of requests of a report, in a real browser: percentiles, the slowest, what they waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import WaitKind
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.incident import Incident, collect
from orion_streams.replay.render_page import render
from tests.browser import Page
from tests.grids import sample
from tests.page.page_eyes import FAINT
from tests.replay.logs import (
    START_MS,
    WORKER,
    Log,
    accepted,
    completed,
    recorded,
    routed,
    started,
)
from tests.replay.test_page import COST, DESK, HOT, PHONE, WIDTH, at_peace, pointed_at, write

pytestmark = pytest.mark.everything
ROWS = "[...document.querySelectorAll('#slow-rows tr[data-request]')]"


def unequal() -> Incident:
    """Three requests of two clients: one is the slowest in all, one waited longest, one loaded longest."""
    log = Log()
    for n, (client, waits_s, runs_s, load_ms) in enumerate(
        (("brain", 2, 60, 100), ("webui", 40, 3, 0), ("webui", 1, 9, 8_000))
    ):
        request = f"{client}/q{n}"
        begin_ms = n * 100_000 + 1_000
        for second in range(100):
            ms = begin_ms + second * 1_000
            log.commit(ms, sample(WORKER, boot="b1" if n < 2 else "b2"))
            if second == 0:
                log.commit(
                    ms, accepted(request), ev.RequestDeferred(request, WaitKind.BUSY, WORKER, (HOT,))
                )
            if second == waits_s:
                log.commit(ms, routed(request, WORKER, 1, COST), started(request))
            if second == waits_s + runs_s:
                figures = {"load_ms": load_ms, "total_ms": runs_s * 1_000, "cold": load_ms > 1_000}
                log.commit(ms, replace(completed(request, WORKER), **figures))
    return log.incident()


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
async def test_the_slowest_can_be_sorted_and_found(page: Page, tmp_path: Path, width: int) -> None:
    """By total, by wait and by load; a row, by pointer or keyboard, leads to its moment, says there what it
    waited for, and the next one is one step away."""
    path = write(tmp_path, render(unequal()))
    await page.open(path, width=width)
    names = f"{ROWS}.map(e => e.querySelector('.who bdi').textContent)"
    assert await page.ask(names) == ["brain/q0", "webui/q1", "webui/q2"]
    await page.click("#slow th[data-order=loadMs] button")
    assert (await page.ask(names))[0] == "webui/q2"
    await page.ask("document.querySelector('#slow th[data-order=waitedMs] button').focus()")
    await page.press("Enter")
    assert await page.ask(names) == ["webui/q1", "brain/q0", "webui/q2"]
    assert await page.ask("document.querySelector('#slow [aria-sort]').dataset.order") == "waitedMs"
    await page.ask(f"{ROWS}[0].querySelector('a').focus()")
    await page.press("Enter")
    begin, end = await page.ask("[Number(timeline.dataset.from), Number(timeline.dataset.to)]")
    assert begin < START_MS + 101_000 < START_MS + 144_000 < end < START_MS + 200_000
    told = await page.ask("document.getElementById('chosen').innerText")
    assert "webui/q1 took 43\u00a0s: 40\u00a0s waiting for orion-worker" in told
    assert await page.ask("document.querySelector('.machine.is-chosen').dataset.node") == WORKER
    assert await page.ask(f"{ROWS}.map(e => e.getAttribute('aria-current'))") == ["true", None, None]
    await page.click("[data-step='1']")
    assert await page.ask(f"{ROWS}.map(e => e.getAttribute('aria-current'))") == [None, "true", None]
    await page.click("#unchoose")
    assert await page.ask("document.getElementById('chosen').hidden")
    assert await page.ask(WIDTH) <= width
    at_peace(page, path)


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
async def test_percentiles_and_what_time_was_spent_on(page: Page, tmp_path: Path, width: int) -> None:
    """A line for all, for each client; only what was measured; the parts of the bar are the whole time."""
    incident = unequal()
    path = write(tmp_path, render(incident))
    await page.open(path, width=width)
    lines = await page.ask("[...document.querySelectorAll('#percentile-rows tr')].map(e => e.innerText)")
    assert [line.split("\t")[0].split("\n")[0] for line in lines] == [
        "all requests", "client webui", "client brain",
    ]  # fmt: skip
    assert "43\u00a0s" in lines[0] and "62\u00a0s" in lines[0]
    head = await page.ask("document.getElementById('percentile-head').textContent")
    assert "loading" in head and "first token" not in head
    widths = await page.ask(
        "[...document.querySelectorAll('#spent .bar i')].map(e => parseFloat(e.style.width))"
    )
    assert sum(widths) == pytest.approx(100)
    assert len(widths) == len(incident.spent) - list(incident.spent.values()).count(0)
    at_peace(page, path)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_every_outcome_can_be_read(page: Page, tmp_path: Path, dark: bool) -> None:
    """Its letters have a contrast of 4.5, whatever colour it has in the timeline; the control is grey."""
    path = write(tmp_path, render(unequal()))
    await page.open(path, width=DESK, dark=dark)
    for outcome in ("done", "failed", "error", "abandoned", "expired", "cancelled", "open"):
        await page.ask(
            f"document.querySelectorAll('.outcome').forEach(e => e.className = 'outcome {outcome}')"
        )
        assert await page.ask(FAINT) == [], outcome
    await page.ask("document.querySelectorAll('.outcome').forEach(e => e.style.color = '#777')")
    assert await page.ask(FAINT) != []
    at_peace(page, path)


async def test_many_slow_requests_are_shown_on_demand(page: Page, tmp_path: Path) -> None:
    """A page full first, all of them after a click."""
    rows = recorded("decode-heavy", "steady", 60)
    path = write(tmp_path, render(collect(LoggedGrid(Grid()), [rows], "a simulated run")))
    await page.open(path, width=DESK)
    assert await page.ask(f"{ROWS}.length") == 25
    await page.click("#slow .more-rows")
    assert await page.ask(f"{ROWS}.length") == 60
    at_peace(page, path)


async def test_a_killed_agent_is_marked_in_its_lane(page: Page, tmp_path: Path) -> None:
    """Pointing at where it ended says so; elsewhere nothing does."""
    path = write(tmp_path, render(unequal()))
    await page.open(path, width=DESK)
    said = await pointed_at(page, WORKER, START_MS + 200_000)
    assert "orion-worker's agent was killed, or crashed" in said
    assert await pointed_at(page, WORKER, START_MS + 190_000) == ""
