"""How the page looks: on the tablets of the wall and on a phone, in light and dark, whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Page
from tests.page.page_eyes import CARDS, CUT, FAINT, SIZE, foreign, says
from tests.page.page_scenes import SCENES
from tests.page.page_stage import page_stage

pytestmark = pytest.mark.everything
TABLETS, UPRIGHT = ((1280, 800), (1024, 600)), ((800, 1280), (390, 844))


@pytest.mark.parametrize("name", SCENES)
async def test_it_can_be_read(page: Page, valkey_url: str, prefix: str, tmp_path: Path, name: str) -> None:
    """It says what is the matter; on a tablet nothing scrolls, upright nothing is too wide; neither the
    sentence nor what stands on a card is cut; every text has a contrast of 4.5 in light and dark; the
    console is quiet; nothing is asked for beyond the gateway."""
    scene = SCENES[name]
    async with page_stage(
        valkey_url, prefix, tmp_path, scene.prepare, before_minutes=scene.minutes, more=scene.more
    ) as stage:
        for dark in (False, True):
            for width, height in (*TABLETS, *UPRIGHT):
                await page.open(stage.url, width=width, height=height, dark=dark)
                for words in scene.words:
                    await says(page, words)
                assert await page.ask(CARDS) == len(stage.nodes)
                assert await page.ask(FAINT) == []
                size = await page.ask(SIZE)
                if (width, height) in UPRIGHT:
                    assert size[0] == width
                else:
                    assert size == [width, height]
                assert await page.ask(CUT) == []
        assert page.complaints == []
        assert foreign(page, stage.url) == []


BUSY = f"""
(async (number, runs) => {{
  const {{ fillCards }} = await import('/orion/page/cards.js');
  const stream = new EventSource('/orion/v1/live');
  const first = await new Promise((take) => {{ stream.onmessage = take; }});
  stream.close();
  const view = JSON.parse(first.data), node = view.nodes.find((each) => each.doing.length);
  const run = {{ ...node.doing[0], client: 'the-grandparents-living-room' }};
  const busy = {{
    ...node, state: 'hot', tone: 'warn', why: 'takes nothing: 81.4 °C, above 75 °C',
    since_ms: view.at_ms - 125000, until: 'goes on below 70 °C',
    doing: Array.from({{ length: runs }}, (_, n) => ({{ ...run, number: n + 1 }})),
  }};
  const names = Array.from({{ length: number }}, (_, n) => `node-${{n}}`);
  const nodes = names.map((name) => ({{ ...busy, name, short: name }}));
  const host = document.querySelector('#nodes'), fresh = host.cloneNode(false);
  host.replaceWith(fresh);
  fillCards({{ ...view, nodes }}, view.at_ms, {{ open: () => 0, mine: () => false }});
  const reasons = [...fresh.querySelectorAll('.why')].filter((e) => e.checkVisibility()).length;
  return [reasons, {CUT}, {SIZE}, fresh.innerText.includes(' more')];
}})
"""
"""Draws so many nodes that are hot while so many runs go on there: how many say why they take nothing, what
is cut, how large the page is, and whether runs are counted that are not shown."""


async def test_who_is_busy_says_why_it_takes_no_more(
    page: Page, valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """However many nodes and runs there are, on each tablet: the reason has its place, the runs without one
    are counted."""
    scene = SCENES["quiet"]
    async with page_stage(
        valkey_url, prefix, tmp_path, scene.prepare, before_minutes=scene.minutes
    ) as stage:
        for width, height in TABLETS:
            for number, runs in ((1, 1), (2, 3), (3, 2), (4, 5), (6, 3), (8, 5)):
                await page.open(stage.url, width=width, height=height)
                await page.until("document.querySelector('.doing')")
                found = await page.ask(f"{BUSY}({number}, {runs})")
                assert found == [number, [], [width, height], runs > (1 if number > 4 else 2)]


async def test_what_is_wrong_with_a_look_is_noticed(
    page: Page, valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """Negative control: faint letters, a card that says too much, a page that is too wide, a foreign
    address."""
    scene = SCENES["quiet"]
    async with page_stage(
        valkey_url, prefix, tmp_path, scene.prepare, before_minutes=scene.minutes
    ) as stage:
        await page.open(stage.url, width=1280, height=800)
        await says(page, "kinematics only")
        await page.ask("document.querySelector('#sentence').style.color = '#b0b0b0'")
        assert "All well" in (await page.ask(FAINT))[0]
        await page.ask("document.querySelector('.now').style.cssText = 'height: 4px; min-height: 0'")
        assert len(await page.ask(CUT)) == 1
        await page.ask("document.querySelector('#sentence').style.width = '1400px'")
        assert (await page.ask(SIZE))[0] > 1280
        assert page.complaints == []
        await page.ask("fetch('http://127.0.0.1:9/away').catch(() => 0)")
        assert "violates" in page.complaints[0]
        elsewhere = tmp_path / "elsewhere.html"
        elsewhere.write_text("away")
        await page.open(elsewhere, width=1280, height=800)
        assert foreign(page, stage.url) == [elsewhere.as_uri()]
