"""The picture of `orion top` that the documents show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.cli.pictures_top import busy_moment, in_utc, picture

DRAWN = Path(__file__).parents[2] / "docs" / "pictures" / "top.svg"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times as the picture has them."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        in_utc()
        yield
    time.tzset()


def words(svg: str) -> str:
    """What is to be read in a picture."""
    texts = [each.text or "" for each in ET.fromstring(svg).iter() if each.tag.endswith("}text")]
    return "\n".join(" ".join(text.split()) for text in texts)


def test_the_picture_is_what_the_screen_shows_today() -> None:
    """`python -m tests.cli.pictures_top docs/pictures` draws it again."""
    assert words(DRAWN.read_text(encoding="utf-8")) == words(picture(busy_moment()))


def test_the_picture_says_what_it_is_and_loads_nothing() -> None:
    """A simulated grid is called one, and no part of the picture comes from elsewhere."""
    svg = picture(busy_moment())
    found = words(svg)
    for text in (
        "a simulated grid",
        "Worker hot",
        "RUNNING",
        "WAITING",
        "waits until a node has cooled",
        "simulated:",
    ):
        assert text in found, text
    assert "url(http" not in svg
    assert "@font-face" not in svg
    assert "href" not in svg
