"""One log, read live, from files of both kinds and from an archive: the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.archive import archive_next
from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import load
from orion_streams.model.snapshot import encode_grid
from orion_streams.replay.source import FileSource, LiveSource, Source
from orion_streams.replay.verify import Report, verify
from tests.conftest import MemoryStore
from tests.replay.recorded import exported, grown

KINDS = ("live", "plain", "packed", "archive")


async def opened(kind: str, store: MemoryStore, config: Config, folder: Path) -> Source:
    """The log of a store as a source of this kind."""
    match kind:
        case "live":
            return LiveSource(store.log, config)
        case "archive":
            last = await store.log.last_position()
            while await archive_next(store.log, config.prefix, folder / "archive", last):
                pass
            return FileSource(folder / "archive")
        case _:
            suffix = ".jsonl" if kind == "plain" else ".jsonl.gz"
            return FileSource(await exported(store, config, folder / f"log{suffix}"))


@pytest.mark.parametrize("kind", KINDS)
async def test_every_source_gives_the_same_log(config: Config, tmp_path: Path, kind: str) -> None:
    """Bounds, rows, any state and any time are those of the log itself."""
    store = await grown(config)
    log = await opened(kind, store, config, tmp_path)
    last = await store.log.last_position()
    assert await log.bounds() == (1, last)
    rows = [row async for stretch in log.stretches() for row in stretch.rows]
    assert rows == await store.log.events(0, last)
    for position in (0, 1, 2, last // 2, last - 1, last):
        state, wanted = await log.state_at(position), await load(store.log, position)
        assert encode_grid(state.grid) == encode_grid(wanted.grid)
        assert state.digest == wanted.digest
        tail = [row[0] async for stretch in log.stretches(position) for row in stretch.rows]
        assert tail == list(range(position + 1, last + 1))
    live = LiveSource(store.log, config)
    for position in (1, last // 3, last):
        server_ms = (await log.state_at(position)).grid.server_ms
        for moment in (server_ms - 1, server_ms, server_ms + 1):
            assert await log.position_at(moment) == await live.position_at(moment)
    assert await log.position_at(0) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_log_does_not_have_is_said(config: Config, tmp_path: Path, kind: str) -> None:
    """A position beyond the end is refused, and how far it goes is named."""
    store = await grown(config, rounds=2)
    log = await opened(kind, store, config, tmp_path)
    last = await store.log.last_position()
    with pytest.raises(LogError, match=f"position.* {last}.*{last + 1} was asked for"):
        await log.state_at(last + 1)


@pytest.mark.parametrize("beyond", [False, True])
async def test_a_moment_in_a_changed_commit_is_refused(
    config: Config, tmp_path: Path, beyond: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the moment is in the middle of it: whatever its commit holds is confirmed by the head that
    follows, or by the end of the file. What was changed in later commits does not matter."""
    store = await grown(config, rounds=4)
    path = await exported(store, config, tmp_path / "log.jsonl")
    log, lines = FileSource(path), path.read_bytes().splitlines()
    at = [n for n, line in enumerate(lines) if b'"ram_used_mb":2000' in line][-1 if beyond else 1]
    lines[at] = lines[at].replace(b'"ram_used_mb":2000', b'"ram_used_mb":2001')
    path.write_bytes(b"\n".join([*lines, b""]))
    rows = [row for stretch in log.read() for row in stretch.rows]
    [changed] = [position for position, raw in rows if raw == lines[at]]
    head = max(position for position, raw in rows if position < changed and is_head(raw))
    assert (await log.state_at(head - 1)).grid.position == head - 1
    for moment in (head, changed):
        with pytest.raises(LogError, match=rf"line \d+: what stands at positions {head} to \d+ is not"):
            await log.state_at(moment)
    monkeypatch.setattr("orion_streams.replay.source.confirm", lambda *_: None)
    assert (await log.state_at(changed)).grid.position == changed


async def test_a_change_in_an_earlier_segment_is_seen_by_who_asks_for_it(
    config: Config, tmp_path: Path
) -> None:
    """A moment is reached from the state before it; rows that are read `checked` are chained from the
    first one on."""
    path = await exported(await grown(config, rounds=40), config, tmp_path / "log.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"ram_used_mb":2000', b'"ram_used_mb":2001', 1))
    log = FileSource(path)
    _, last = await log.bounds()
    assert (await log.state_at(last)).grid.position == last
    assert sum(len(stretch.rows) for stretch in log.read()) == last
    with pytest.raises(LogError, match=r"log\.jsonl: line \d+: what stands at positions 3 to \d+ is not"):
        list(log.read(checked=True))


async def test_what_was_altered_explains_a_line_out_of_place(config: Config, tmp_path: Path) -> None:
    """A line that was doubled moves all after it, and a header then comes too late: the first is named."""
    store = await grown(config)
    path = await exported(store, config, tmp_path / "log.jsonl")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:9], *lines[8:], b""]))
    with pytest.raises(LogError, match=r"log\.jsonl: line 1\d: what stands at positions \d+ to \d+ is not"):
        await FileSource(path).bounds()


@pytest.mark.parametrize("kind", KINDS)
async def test_snapshots_are_verified_on_the_way(config: Config, tmp_path: Path, kind: str) -> None:
    """Each state that a source knows is compared with what the log before it gives."""
    store = await grown(config, rounds=40)
    log = await opened(kind, store, config, tmp_path)
    report = await verify(log)
    assert (report.diverged, report.events) == (0, await store.log.last_position())
    assert report.snapshots >= 2


@pytest.mark.parametrize("kind", ["live", "packed"])
async def test_a_snapshot_that_the_log_does_not_give_diverges(
    config: Config, tmp_path: Path, kind: str
) -> None:
    """The control: with one value changed in a kept snapshot, its position is named, with both hashes."""
    store = await grown(config, rounds=40)
    kept = store.memory._snapshots[1]
    changed = (await load(store.log, kept.position)).grid
    changed.at_ms += 1
    store.memory._snapshots[1] = structs.replace(kept, grid=encode_grid(changed))
    log = await opened(kind, store, config, tmp_path)
    report: Report = await verify(log)
    assert report.diverged == 1
    first = report.first_divergence
    assert first is not None
    assert first.position == kept.position
    assert "snapshot" in str(first.recorded) and first.recorded != first.recomputed
    assert first.state["position"] == kept.position


async def test_a_trimmed_log_is_read_from_its_first_snapshot(config: Config, tmp_path: Path) -> None:
    """Live and exported, a log without its beginning starts from the state before what is left."""
    store = await grown(config, rounds=40)
    base = store.memory._snapshots[0]
    await store.log.trim("log", f"{base.position - 3}-0")
    last = await store.log.last_position()
    live = LiveSource(store.log, config)
    file = FileSource(await exported(store, config, tmp_path / "rest.jsonl", base.position + 1))
    for log in (live, file):
        rows = [row async for stretch in log.stretches() for row in stretch.rows]
        assert [position for position, _ in rows] == list(range(base.position + 1, last + 1))
        report = await verify(log)
        assert (report.events, report.diverged) == (last - base.position, 0)
    await store.log.trim("snapshots", f"{last + 1}-0")
    with pytest.raises(LogError, match="no snapshot is left of it"):
        await verify(live)


@pytest.mark.parametrize("kind", ["live", "packed"])
async def test_a_time_is_not_looked_for_in_what_is_no_log(
    config: Config, tmp_path: Path, kind: str
) -> None:
    """A head that is none ends the look by its position: where the time is, nobody knows."""
    store = await grown(config, rounds=2)
    at = await store.log.last_position() // 2
    if kind == "live":
        store.memory.streams["log"][f"{at}-0"] = {b"event": b'{"event":"committed"}'}
        log: Source = LiveSource(store.log, config)
    else:
        path = await exported(store, config, tmp_path / "log.jsonl")
        lines = path.read_bytes().split(b"\n")
        lines[at] = b'{"event":"committed"}'
        path.write_bytes(b"\n".join(lines))
        log = FileSource(path)
    with pytest.raises(LogError, match=rf"(position {at} .*|line {at + 1}: )not an event"):
        await log.position_at(4_000_000_000_000)
