"""Forwards and backwards through a log: always at the end of a commit, always the state that was there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orion_streams.config import Config
from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import load
from orion_streams.model.snapshot import encode_grid
from orion_streams.replay import stepper as stepping
from orion_streams.replay.compare_states import changes
from orion_streams.replay.export import head_before
from orion_streams.replay.source import FileSource, Source
from orion_streams.replay.stepper import Stepper
from tests.conftest import MemoryStore
from tests.replay.recorded import exported, grown


@pytest.fixture
async def store(config: Config) -> AsyncIterator[MemoryStore]:
    """A log of some commits."""
    yield await grown(config, rounds=4)


async def ends(store: MemoryStore) -> list[int]:
    """Where its commits end, from position 0 on."""
    last = await store.log.last_position()
    return [each - 1 for each, raw in await store.log.events(0, last) if is_head(raw)] + [last]


async def test_there_and_back_again(store: MemoryStore, config: Config, tmp_path: Path) -> None:
    """To the end by each commit, and back to the beginning: the states are those of the log."""
    log = FileSource(await exported(store, config, tmp_path / "log.jsonl.gz"))
    stepper = Stepper(log, await log.state_at(0))
    places = await ends(store)
    for place in places[1:]:
        assert await stepper.forward()
        assert stepper.position == place
        assert encode_grid(stepper.state.grid) == encode_grid((await load(store.log, place)).grid)
    assert not await stepper.forward()
    for place in reversed(places[:-1]):
        assert await stepper.back()
        assert stepper.position == place
        assert encode_grid(stepper.state.grid) == encode_grid((await load(store.log, place)).grid)
    assert not await stepper.back()


async def test_the_way_is_remembered(
    store: MemoryStore, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back along it nothing is looked for in the log but the one place that is gone to."""
    log = FileSource(await exported(store, config, tmp_path / "log.jsonl"))
    stepper = Stepper(log, await log.state_at(0))
    places = await ends(store)
    for _ in places[1:]:
        await stepper.forward()
    sought = []

    async def noted(source: Source, position: int) -> int:
        sought.append(position)
        return await head_before(source, position)

    monkeypatch.setattr(stepping, "head_before", noted)
    for _ in range(5):
        await stepper.back()
    assert sought == places[-2:-7:-1]


async def test_back_from_a_place_that_was_jumped_to(
    store: MemoryStore, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is remembered of the way, the commit before is found in the log."""
    monkeypatch.setattr(stepping, "REMEMBERED", 1)
    log = FileSource(await exported(store, config, tmp_path / "log.jsonl"))
    places = await ends(store)
    stepper = Stepper(log, await log.state_at(0))
    await stepper.go(places[5] - 1)
    assert stepper.position == places[5]
    assert stepper.commit[-1][0] == places[5]
    for place in (places[4], places[3], places[2]):
        await stepper.back()
        assert stepper.position == place
    await stepper.forward()
    assert stepper.position == places[3]


async def test_two_moments_are_compared(store: MemoryStore) -> None:
    """What changed is named by its path; a moment and itself are the same."""
    early, late = [(await load(store.log, place)).grid for place in (3, await store.log.last_position())]
    assert changes(late, late) == []
    found = {each.path: (each.before, each.after) for each in changes(early, late)}
    assert found["nodes.orion-worker.temp_mc"][1] == late.nodes["orion-worker"].temp_mc
    ended = [path for path in found if path.startswith("closed.brain/")]
    assert len(ended) == sum(len(rows) for rows in late.closed.values()) > 0
    assert {each.path: (each.after, each.before) for each in changes(late, early)} == found
