"""Now and then: the bar, a typed moment, a link, and the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.browser import Page
from tests.page.page_eyes import SOON, says, text
from tests.page.page_scenes import MINUTES, SCENES
from tests.page.page_stage import WORKER, PageStage, page_stage

pytestmark = pytest.mark.everything
IS_THEN = "document.documentElement.dataset.mode === 'past'"
IS_NOW = "document.documentElement.dataset.mode === 'live'"
POSITION = "Number(/^#at=([0-9]+)$/.exec(location.hash)?.[1] ?? 0)"
DEGREES = f"parseInt(document.querySelector('[data-node={WORKER}] .degrees').innerText)"
BAR_S = "['aria-valuemax', 'aria-valuemin'].map(each => +document.querySelector('#bar').getAttribute(each))"
KNOWN = f"{BAR_S}.reduce((to, from) => to - from) < 3600"
HOT, WARM = 78, 70


@pytest.fixture
async def stage(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[PageStage]:
    """A hot afternoon: the worker passed its mark two minutes ago."""
    hot = SCENES["hot"]
    async with page_stage(valkey_url, prefix, tmp_path, hot.prepare, before_minutes=MINUTES) as made:
        yield made


async def open_page(page: Page, stage: PageStage, at: str = "") -> None:
    """The page, once it knows where the log begins: until then the bar is an hour long."""
    await page.open(f"{stage.url}/{at}", width=1280, height=800)
    await page.until(f"document.querySelector('.node') && document.querySelector('.tick') && {KNOWN}")


async def at_bar(page: Page, share: float) -> tuple[float, float]:
    """Where a share of the bar is."""
    box = await page.ask("document.querySelector('#bar').getBoundingClientRect().toJSON()")
    return box["x"] + box["width"] * share, box["y"] + 12


async def mouse(page: Page, kind: str, at: tuple[float, float]) -> None:
    """The left button, or a move with it."""
    await page.call(
        "Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, x=at[0], y=at[1]
    )


async def test_the_bar_is_dragged_into_the_past_and_back(page: Page, stage: PageStage) -> None:
    """Dragged to the left the page is the grid as it was, tinted, with its time and "not live", and without
    the box to ask; dragged to the right end it is live again."""
    await open_page(page, stage)
    assert await page.ask(DEGREES) >= HOT
    paper = "getComputedStyle(document.body).backgroundColor"
    before = await page.ask(paper)
    await mouse(page, "mousePressed", await at_bar(page, 0.9))
    await mouse(page, "mouseMoved", await at_bar(page, 0.3))
    await page.until(f"{IS_THEN} && {DEGREES} < {WARM}")
    await mouse(page, "mouseReleased", await at_bar(page, 0.3))
    assert ", not live" in await text(page, "#clock")
    assert await page.ask("document.querySelector('#ask').hidden")
    assert await page.ask("document.querySelector('#bar').getAttribute('aria-valuetext')") != "live"
    await page.until(f"{paper} !== {before!r}")
    await mouse(page, "mousePressed", await at_bar(page, 0.4))
    await mouse(page, "mouseMoved", await at_bar(page, 1.0))
    await mouse(page, "mouseReleased", await at_bar(page, 1.0))
    await page.until(f"{IS_NOW} && {DEGREES} >= {HOT}")
    assert await page.ask("location.hash") == ""
    assert page.complaints == []


async def test_a_link_holds_a_moment(page: Page, stage: PageStage) -> None:
    """A time that is typed becomes a link; who opens it sees the same position; `Back to live` is live."""
    await open_page(page, stage)
    moment = await page.ask(
        "fetch('/orion/v1/timeline').then(r => r.json()).then(t => new Date(t.from_ms + 120000))"
        ".then(d => d.toLocaleTimeString('de'))"
    )
    await page.type("#go-to", moment)
    await page.press("Enter")
    await page.until(IS_THEN)
    assert (await text(page, "#clock")).startswith(moment)
    seen, degrees = await page.ask(POSITION), await page.ask(DEGREES)
    assert seen > 0
    assert degrees < WARM
    await page.open("about:blank", width=1280, height=800)
    await open_page(page, stage, f"#at={seen}")
    await page.until(IS_THEN)
    assert await page.ask(f"[{POSITION}, {DEGREES}]") == [seen, degrees]
    await page.click("#back")
    assert await page.ask(f"{IS_NOW} && location.hash === ''")


async def test_a_position_is_typed(page: Page, stage: PageStage) -> None:
    """A position is a moment as well; one that the log does not have is refused with a sentence, and the
    page stays where it was."""
    await open_page(page, stage)
    await page.type("#go-to", "300")
    await page.press("Enter")
    await page.until(f"{IS_THEN} && {POSITION} === 300")
    await page.ask("document.querySelector('#go-to').value = ''")
    await page.type("#go-to", "999999999")
    await page.press("Enter")
    await says(page, "the log ends at position", "#reasons")
    assert await page.ask(POSITION) == 300


async def test_what_is_typed_is_of_the_clock_on_that_day(page: Page, stage: PageStage) -> None:
    """In summer it is another hour; `now` is no moment but live."""
    await page.call("Emulation.setTimezoneOverride", timezoneId="Europe/Berlin")
    await open_page(page, stage)
    summer = ("2026-07-01 14:05", "7-1 14:05", "07-01 14.05")
    for text_typed, offset in (*((each, "120") for each in summer), ("2026-12-24 14:05", "60")):
        await page.ask("document.querySelector('#go-to').value = ''")
        await page.type("#go-to", text_typed)
        await page.press("Enter")
        await says(page, "the log ", "#reasons")
        assert page.requests[-1].endswith(f"tz={offset}")
        await page.ask("document.querySelector('#go-to').value = 'now'")
        await page.press("Enter")
        await page.until("!document.querySelector('#reasons').innerText.includes('the log ')")


async def test_a_tick_is_a_moment(page: Page, stage: PageStage) -> None:
    """A click on a tick, and the button `before`, go to where it went wrong; so does a decision's time."""
    await open_page(page, stage)
    box = await page.ask("document.querySelector('.tick').getBoundingClientRect().toJSON()")
    for kind in ("mousePressed", "mouseReleased"):
        await mouse(page, kind, (box["x"] + 1, box["y"] + 5))
    await page.until(IS_THEN)
    position = await page.ask(POSITION)
    assert "worker takes nothing" in await text(page, "#decisions li")
    await page.press("End")
    await page.click("#back")
    await page.click("#tick-before")
    await page.until(f"{IS_THEN} && {POSITION} === {position}")
    await page.click("#back")
    link = await page.ask("document.querySelector('#decisions a').getAttribute('href')")
    await page.click("#decisions a")
    await page.until(f"{IS_THEN} && location.hash === {link!r}")


async def test_who_does_nothing_sees_the_present(page: Page, stage: PageStage) -> None:
    """After two idle minutes, which are over at once here, the page is live."""
    await page.first(SOON)
    await open_page(page, stage)
    await page.ask("location.hash = 'at=300'")
    await page.until(IS_THEN)
    await page.until(f"{IS_NOW} && location.hash === ''")


KEPT = """
const later = window.setTimeout;
window.idle = [];
window.setTimeout = (what, ms, ...more) => (ms < 100000 ? later(what, ms, ...more) : idle.push(what));
"""
"""Before the page's own script: what minutes of waiting are for is kept in `idle`."""


async def test_a_refusal_does_not_stay(page: Page, stage: PageStage) -> None:
    """What cannot be shown is said, and two idle minutes later the grid is spoken of again."""
    await page.first(KEPT)
    await open_page(page, stage)
    before = await text(page, "#reasons")
    await page.type("#go-to", "999999999")
    await page.press("Enter")
    await says(page, "the log ends at position", "#reasons")
    await page.ask("window.idle.pop()()")
    assert await text(page, "#reasons") == before


async def test_it_stays_there_before(page: Page, stage: PageStage) -> None:
    """Negative control: with minutes as long as they are it is still there after some more views."""
    await open_page(page, stage)
    await page.ask("location.hash = 'at=300'")
    await page.until(IS_THEN)
    await page.ask(
        "window.heard = 0, new EventSource('/orion/v1/live').onmessage = () => { heard += 1; }, 1"
    )
    await page.until("heard > 2")
    assert await page.ask(IS_THEN)
