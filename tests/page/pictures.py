"""Pictures of the page, in front of a real gateway.

python -m tests.page.pictures DIR          those that docs/OBSERVE.md shows
python -m tests.page.pictures DIR --all    every scene at every size, to be looked at
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.browser import Page, browser
from tests.page.page_eyes import CUT_OFF, DRAWN, says
from tests.page.page_scenes import SCENES
from tests.page.page_stage import PageStage, page_stage

SIZES = {"1280x800": (1280, 800), "1024x600": (1024, 600), "390": (390, 844)}
DOCUMENTS = "1200x750"
MAX_BYTES = 200_000


class Picture(NamedTuple):
    """A file, and what it shows."""

    file: str
    size: str
    dark: bool = False


SHOWN = {
    "hot": (Picture("page-light.png", DOCUMENTS), Picture("page-dark.png", DOCUMENTS, dark=True)),
    "quiet": (Picture("page-phone.png", "390"),),
}


def every(scene: str) -> Iterator[Picture]:
    """Every look of a scene."""
    for size in SIZES:
        for dark in (False, True):
            yield Picture(f"{scene}-{size}{'-dark' * dark}.png", size, dark)


async def take(
    page: Page, stage: PageStage, picture: Picture, folder: Path, words: tuple[str, ...], drawn: bool
) -> None:
    """Open the page, wait until it says what the scene is, and write a picture of it."""
    width, height = SIZES.get(picture.size, (1200, 750))
    await page.open(stage.url, width=width, height=height, dark=picture.dark, scale=1)
    for each in words:
        await says(page, each)
    await page.until(DRAWN if drawn else "true")
    raw = await page.picture(whole=picture.size == "390")
    is_shown = any(picture in row for row in SHOWN.values())
    assert len(raw) < MAX_BYTES or not is_shown, f"{picture.file}: {len(raw)} bytes are too many"
    (folder / picture.file).write_bytes(raw)


async def take_all(folder: Path, everything: bool) -> None:
    """Write the pictures of all scenes; with `everything` also of a Redis that is away."""
    with TemporaryDirectory() as work, EmbeddedServer(Path(work) / "server") as server:
        async with browser(Path(work) / "profile") as page:
            for name, scene in SCENES.items():
                pictures = tuple(every(name)) if everything else SHOWN.get(name, ())
                if not pictures:
                    continue
                async with page_stage(
                    server.url,
                    f"{name}:",
                    Path(work),
                    scene.prepare,
                    before_minutes=scene.minutes,
                    more=scene.more,
                ) as stage:
                    for picture in pictures:
                        await take(page, stage, picture, folder, scene.words, scene.minutes > 0)
            if everything:
                await without_redis(page, server, Path(work), folder)


async def without_redis(page: Page, server: EmbeddedServer, work: Path, folder: Path) -> None:
    """Write the pictures of a page whose gateway cannot hear Redis."""
    scene = SCENES["quiet"]
    async with page_stage(server.url, "away:", work, scene.prepare, before_minutes=scene.minutes) as stage:
        await page.open(stage.url, width=1280, height=800)
        await page.until(DRAWN)
        await stage.rest()
        server.kill()
        await page.until(CUT_OFF)
        for picture in every("redis-away"):
            await take(page, stage, picture, folder, ("Cannot hear Redis",), drawn=False)
        server.start()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(Path(sys.argv[1]), "--all" in sys.argv[2:]))
