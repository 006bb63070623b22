"""A small recording for the tests of bad files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orion_streams.config import Config, parse
from orion_streams.eventlog import jsonl
from tests.browser import Page, browser
from tests.conftest import STREAMS_TOML
from tests.replay.recorded import exported, grown


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The text of a small recording in several segments, each with the state before it."""
    path = tmp_path_factory.mktemp("whole") / "log.jsonl"
    config = parse(STREAMS_TOML.read_text(encoding="utf-8"), str(STREAMS_TOML))
    asyncio.run(record(config, path))
    text = path.read_bytes()
    assert text.count(jsonl._HEADER) == 3
    return text


async def record(config: Config, path: Path) -> None:
    """A grid that works for a moment."""
    await exported(await grown(config, rounds=9, snapshot_events=20), config, path)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """A browser for one test."""
    async with browser(tmp_path / "profile") as opened:
        yield opened
