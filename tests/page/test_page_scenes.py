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
