"""A browser for each test of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.browser import Page, browser


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """A browser with nothing in it."""
    async with browser(tmp_path / "profile") as opened:
        yield opened
