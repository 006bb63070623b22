"""The log's archive: gapless, chained, whole files or none; what is trimmed was archived before."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog import archive
from orion_streams.eventlog.archive import archive_next, header_of, segments
from orion_streams.eventlog.jsonl import Header, is_head
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.replay.source import FileSource
from tests.conftest import MemoryStore, ServerStore
from tests.eventlog.archived_logs import everything, folded, grown, names, rows
from tests.eventlog.test_retention import WORKER, keeping, work_for_a_while
from tests.helpers import Agent, Store, snapshots


async def test_archive_and_tail_give_the_live_state(store: Store, config: Config, folder: Path) -> None:
    """With the beginning of the log trimmed, archive and tail fold from position 1 to the same bytes and
    the same running hash as the router has."""
    small = keeping(config, snapshot_events=150, log_keep_ms=1, archive_dir=str(folder))
    router, agent = Router(store.log, small), Agent(store, WORKER)
    await router.start()
    while await store.log.first_position() < 2:
        await work_for_a_while(store, router, agent, 5)
    state = await folded(store, folder)
    assert encode_grid(state.grid) == encode_grid(router.state.grid)
    assert state.digest == router.state.digest
    assert segments(folder)[0].first == 1
    assert segments(folder)[-1].last >= await store.log.first_position() - 1


async def test_without_an_archive_what_is_trimmed_is_missing(
    store: Store, config: Config, folder: Path
) -> None:
    """The control: trimmed with the archive off, positions are missing. It is said which, when the archive
    is written as well as when it is read, and it goes on after them."""
    small = keeping(config, snapshot_events=150, log_keep_ms=1)
    router = await grown(store, small, 3)
    [(_, last)] = await everything(store, folder)
    while await store.log.first_position() <= last + 1:
        await work_for_a_while(store, router, Agent(store, WORKER), 5)
    file = await archive_next(store.log, store.prefix, folder, await store.log.last_position())
    assert file is not None
    assert file.missing == (last + 1, file.first - 1)
    with pytest.raises(LogError, match=f"after position {last} comes {file.first}"):
        rows(folder)
    assert [each for each, _ in rows(segments(folder)[-1].path)] == list(range(file.first, file.last + 1))


async def test_files_are_bounded_and_end_with_a_commit(
    store: Store, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit on a file's events, each file begins with a commit's head and none is much longer, all
    events are there once and in order, and archiving again writes what is new only."""
    monkeypatch.setattr(archive, "MAX_EVENTS", 20)
    router = await grown(store, config, 12)
    files = await everything(store, folder)
    assert len(files) > 3
    assert all(last - first < 20 for first, last in files)
    assert rows(folder) == await store.log.events(0, 100_000)
    for segment in segments(folder):
        assert is_head(rows(segment.path)[0][1])
    assert await everything(store, folder) == []
    await work_for_a_while(store, router, Agent(store, WORKER), 1)
    [(first, _)] = await everything(store, folder)
    assert first == files[-1][1] + 1
    assert rows(folder) == await store.log.events(0, 100_000)


async def test_a_commit_larger_than_a_file_is_not_divided(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit below any commit, each file is one commit."""
    monkeypatch.setattr(archive, "MAX_BYTES", 1)
    store = MemoryStore()
    await grown(store, config, 3)
    await everything(store, folder)
    for segment in segments(folder):
        raws = [raw for _, raw in rows(segment.path)]
        assert [is_head(raw) for raw in raws] == [True] + [False] * (len(raws) - 1)


async def test_an_archive_that_begins_late_folds_from_a_snapshot(
    store: Store, config: Config, folder: Path
) -> None:
    """Begun on a log whose beginning is gone, the archive has what is left, and the snapshot that stood
    there makes it fold to the live state without any server."""
    small = keeping(config, snapshot_events=150, log_keep_ms=1)
    router = await grown(store, small, 5)
    agent = Agent(store, WORKER)
    while await store.log.first_position() < 2:
        await work_for_a_while(store, router, agent, 5)
    await everything(store, folder)
    assert segments(folder)[0].first > 1
    positions = {each.position + 1 for each in await snapshots(store.log)}
    assert {each.first for each in segments(folder) if header_of(each).snapshot} == positions
    source = FileSource(folder)
    first, last = await source.bounds()
    assert first > 1
    state = await source.state_at(last)
    assert encode_grid(state.grid) == encode_grid(router.state.grid)


@pytest.mark.parametrize("change", ["tail", "log", "prefix"])
async def test_the_archive_of_another_log_is_refused(
    store: Store, config: Config, folder: Path, change: str
) -> None:
    """A log that lost its tail, another log and another prefix do not continue an archive: nothing is
    written, and the folder is named."""
    router = await grown(store, config, 2)
    before = await store.dump()
    await work_for_a_while(store, router, Agent(store, WORKER), 1)
    await everything(store, folder)
    prefix = store.prefix
    if change == "tail":
        await store.restore(before)
    elif change == "log":
        for key in before:
            await store.drop(key)
        await grown(store, config, 4)
    else:
        prefix = "other:"
    held = names(folder)
    with pytest.raises(LogError, match=f"{folder} is the archive of another log"):
        await archive_next(store.log, prefix, folder, await store.log.last_position())
    assert names(folder) == held


async def test_a_lost_tail_was_not_archived(
    server_store: ServerStore, config: Config, folder: Path
) -> None:
    """Positions that the server lost are written anew: that the old ones were archived is no reason to
    trim the new ones."""
    store = server_store
    small = keeping(config, snapshot_events=20, log_keep_ms=1, archive_dir=str(folder))
    router, agent = Router(store.log, small), Agent(store, WORKER)
    await router.start()
    await work_for_a_while(store, router, agent, 10)
    before, end = await store.dump(), await store.log.last_position()
    await work_for_a_while(store, router, agent, 15)
    assert router.retention._archived > end
    reached = router.retention._archived
    await store.restore(before)
    await router.start()
    while await store.log.last_position() < reached + 20:
        await work_for_a_while(store, router, agent, 1)
    assert len([each for each in await snapshots(store.log) if each.position > end]) > 2
    assert await store.log.first_position() <= end + 1


async def test_a_file_in_the_making_does_not_bring_a_lost_tail_back(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail is lost while a file of it is written: what was written then counts for nothing."""
    store, loop = MemoryStore(), asyncio.get_running_loop()
    began, go_on, write = asyncio.Event(), threading.Event(), archive.write
    router = await grown(store, keeping(config, archive_dir=str(folder)), 3)

    def slow(*args: Any) -> Header:
        loop.call_soon_threadsafe(began.set)
        go_on.wait()
        return write(*args)

    monkeypatch.setattr(archive, "write", slow)
    router.retention.archive(router.state.grid.position)
    await began.wait()
    router.retention.begin_anew()
    go_on.set()
    await router.retention.close()
    assert segments(folder) != []
    assert router.retention._archived == 0


async def test_no_archive_no_folder(store: Store, config: Config) -> None:
    """With `archive_dir` empty, the default, the log is trimmed and nothing is written anywhere."""
    assert config.retention.archive_dir == ""
    router = await grown(store, keeping(config, snapshot_events=100, log_keep_ms=1), 10)
    while await store.log.first_position() < 2:
        await work_for_a_while(store, router, Agent(store, WORKER), 5)
    assert router.retention._tasks.keys() <= {"verifying"}
    assert encode_grid(Grid()) != encode_grid(router.state.grid)
