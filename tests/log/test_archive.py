"""The log's archive: gapless, chained, whole files or none; what is trimmed was archived before."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gzip
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams import archive, archiving, recording
from orion_streams.agents.router import Router
from orion_streams.archive import header_of, segments
from orion_streams.archiving import archive_next
from orion_streams.config import Config
from orion_streams.draft import LoggedGrid, chain
from orion_streams.errors import LogError
from orion_streams.history import extend
from orion_streams.recording import Header, Row, is_head
from orion_streams.replay.source import FileSource
from orion_streams.state import Grid, encode_grid
from tests.conftest import MemoryStore, ServerStore
from tests.helpers import Agent, Store, snapshots
from tests.log.test_retention import WORKER, keeping, work_for_a_while

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archive is."""
    return tmp_path / "archive"


def names(folder: Path) -> list[str]:
    """All that is in it."""
    return sorted(each.name for each in folder.iterdir())


def in_the_way(folder: Path, gone: bool = False) -> None:
    """A file where the folder should be made; or no longer."""
    if gone:
        folder.unlink()
    else:
        folder.write_text("no folder")


def rows(path: Path) -> list[Row]:
    """All that a file, or those of a folder, hold, verified as far as it goes without folding."""
    if path.is_file():
        return [row for stretch in recording.checked(path) for row in stretch.rows]
    if not segments(path):
        return []
    found = [row for stretch in FileSource(path).read() for row in stretch.rows]
    return [row for each in segments(path) for row in rows(each.path)] and found


async def everything(store: Store, folder: Path) -> list[tuple[int, int]]:
    """Archive all that the log has; the first and last positions of the new files."""
    files, until = [], await store.log.last_position()
    while file := await archive_next(store.log, store.prefix, folder, until):
        files.append((file.first, file.last))
    return files


async def grown(store: Store, config: Config, rounds: int) -> Router:
    """A router whose log has some commits."""
    router = Router(store.log, config)
    await router.start()
    await work_for_a_while(store, router, Agent(store, WORKER), rounds)
    return router


async def folded(store: Store, folder: Path) -> LoggedGrid:
    """The state that archive and tail give together."""
    source = FileSource(folder)
    state = await source.state_at((await source.bounds())[1])
    await extend(store.log, state, await store.log.last_position())
    return state


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
    monkeypatch.setattr(archiving, "MAX_EVENTS", 20)
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
    monkeypatch.setattr(archiving, "MAX_BYTES", 1)
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


async def archived(config: Config, folder: Path) -> list[Path]:
    """Three files of a small log, in order."""
    store = MemoryStore()
    router = await grown(store, config, 2)
    await everything(store, folder)
    for _ in range(2):
        await work_for_a_while(store, router, Agent(store, WORKER), 1)
        await everything(store, folder)
    return [each.path for each in segments(folder)]


def edited(path: Path, line: int, old: bytes, new: bytes) -> None:
    """Change a line of a file (1: the header) and pack it again, as somebody with a purpose would."""
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_bytes(gzip.compress(b"\n".join(lines)))


async def test_a_changed_event_is_named(config: Config, folder: Path) -> None:
    """An event that was edited in a well-formed file: file and the line after it where the chain breaks."""
    path = (await archived(config, folder))[0]
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    at = next(n for n, line in enumerate(lines, 1) if b"node.sampled" in line)
    heads = [n for n, line in enumerate(lines, 1) if is_head(line) and n > at]
    edited(path, at, b'"ram_used_mb":2000', b'"ram_used_mb":2001')
    with pytest.raises(LogError, match=f"{path}: line {heads[0]}: what is before it is not the log"):
        rows(folder)


async def test_a_change_after_the_last_head_is_named(config: Config, folder: Path) -> None:
    """The last commit of a file has no later head in it: the header's own hash shows the change."""
    path = (await archived(config, folder))[-1]
    last = len(gzip.decompress(path.read_bytes()).split(b"\n")) - 1
    edited(path, last, b'"event"', b'"Event"')
    with pytest.raises(LogError, match=f"{path}: line {last}: after the last commit"):
        rows(folder)


async def test_a_file_that_was_made_up_is_named(config: Config, folder: Path) -> None:
    """A file that is consistent in itself and not what came before the next one: the next one says so."""
    first, second, _ = await archived(config, folder)
    header = msgspec.json.decode(gzip.decompress(first.read_bytes()).split(b"\n")[0])
    edited(first, header["last"] + 1, b'"event"', b'"Event"')
    raws = gzip.decompress(first.read_bytes()).split(b"\n")[1:-1]
    digest = bytes(16)
    for raw in raws:
        digest = chain(digest, raw)
    edited(first, 1, header["last_hash"].encode(), digest.hex().encode())
    with pytest.raises(LogError, match=f"{second}: line 1: it does not follow position"):
        rows(folder)


@pytest.mark.parametrize("damage", ["cut", "flipped", "renamed", "shorter", "longer", "empty", "header"])
async def test_a_damaged_file_is_named(config: Config, folder: Path, damage: str) -> None:
    """Whatever was done to a file, reading ends with its name and a line."""
    path = (await archived(config, folder))[1]
    packed = path.read_bytes()
    lines = gzip.decompress(packed).split(b"\n")
    match damage:
        case "cut":
            path.write_bytes(packed[: len(packed) // 2])
        case "flipped":
            middle = len(packed) // 2
            path.write_bytes(packed[:middle] + bytes([packed[middle] ^ 1]) + packed[middle + 1 :])
        case "renamed":
            path = path.rename(path.with_name(path.name.replace("-0000", "-9000", 1)))
        case "shorter":
            path.write_bytes(gzip.compress(b"\n".join([*lines[:-2], b""])))
        case "longer":
            path.write_bytes(gzip.compress(b"\n".join([*lines[:-1], b"{}", b""])))
        case "empty":
            path.write_bytes(b"")
        case "header":
            edited(path, 1, b'"orion_log":1', b'"orion_log":2')
    with pytest.raises(LogError, match=rf"{path}: line \d+: "):
        list(archive.read_segment(next(each for each in segments(folder) if each.path == path)))


async def test_a_missing_file_is_named(config: Config, folder: Path) -> None:
    """Between two files one is gone: the positions around the gap."""
    first, second, third = await archived(config, folder)
    second.unlink()
    last = int(first.name.split("-")[2].partition(".")[0])
    with pytest.raises(LogError, match=f"{third}: line 1: after position {last} comes"):
        rows(folder)


KILLED = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from orion_streams import archive
from orion_streams.archiving import archive_next
from orion_streams.connection import connect
from orion_streams.log import RedisLog

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

url, prefix, folder, point = sys.argv[1:]
match point:
    case "write": archive.gzip.compress = die
    case "fsync": archive.os.fsync = die
    case "rename": Path.replace = die
    case "renamed": archive.sync_folder = die
    case "full": resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

async def main():
    store = RedisLog(connect(url), prefix)
    await archive_next(store, prefix, Path(folder), await store.last_position())

asyncio.run(main())
"""


async def elsewhere(*arguments: str) -> tuple[int, str]:
    """Archive in a process of its own that meets with an accident; its exit code and last words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("point", ["write", "fsync", "rename", "renamed"])
async def test_a_kill_leaves_no_half_file(
    valkey_url: str, prefix: str, config: Config, folder: Path, point: str
) -> None:
    """kill -9 before, in and after the writing: what has a file's name is whole, the lock is free, and the
    next run goes on to a whole archive without anything left over."""
    from tests.conftest import open_store  # noqa: PLC0415 - beside the fixtures

    async for store in open_store("valkey", lambda _: valkey_url, prefix):
        await grown(store, config, 3)
        code, _ = await elsewhere(valkey_url, prefix, str(folder), point)
        assert code == -signal.SIGKILL
        assert len(rows(folder)) in ({0} if point != "renamed" else {await store.log.last_position()})
        await everything(store, folder)
        assert rows(folder) == await store.log.events(0, 100_000)
        assert [name for name in names(folder) if name.endswith(".part")] == []


async def test_two_archivers_of_one_folder_keep_apart(config: Config, folder: Path) -> None:
    """While one writes, another is refused; it may come again."""
    store = MemoryStore()
    await grown(store, config, 2)
    with archive.lock(folder), pytest.raises(LogError, match="another process archives there"):
        await everything(store, folder)
    assert len(await everything(store, folder)) == 1


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_a_folder_without_locks_is_named(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A disk in the network that has no locks is no other process, and no Redis that is away."""
    store = MemoryStore()
    await grown(store, config, 2)

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(LogError, match=f"{folder}: cannot be used: {os.strerror(code)}"):
        await everything(store, folder)


async def test_a_hung_disk_does_not_hold_the_loop(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that touches the folder runs in the event loop's thread."""
    store, where = MemoryStore(), list[tuple[str, bool]]()
    await grown(store, config, 2)

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            where.append((name, threading.current_thread() is threading.main_thread()))
            return original(*args, **options)

        return noted

    for name in ("mkdir", "open", "glob", "iterdir", "replace"):
        monkeypatch.setattr(Path, name, noting(name, getattr(Path, name)))
    monkeypatch.setattr(fcntl, "flock", noting("flock", fcntl.flock))
    await everything(store, folder)
    assert set(where) == {
        (name, False) for name in ("mkdir", "open", "glob", "iterdir", "replace", "flock")
    }


async def test_a_full_disk_leaves_nothing_behind(
    valkey_url: str, prefix: str, config: Config, folder: Path
) -> None:
    """When the disk takes no more (here: files above 100 bytes) the file is not there, the error names it
    and says why, and it is written once there is room."""
    from tests.conftest import open_store  # noqa: PLC0415 - beside the fixtures

    async for store in open_store("valkey", lambda _: valkey_url, prefix):
        await grown(store, config, 3)
        code, said = await elsewhere(valkey_url, prefix, str(folder), "full")
        assert code == 1
        assert "jsonl.gz cannot be written: File too large" in said
        assert names(folder) == [".lock"]
        assert len(await everything(store, folder)) == 1


async def test_a_disk_that_gives_back_something_else_is_not_believed(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read again before it gets its name: with a bit flipped on the way it never does."""
    store, compress = MemoryStore(), gzip.compress
    await grown(store, config, 2)

    def flipped(raw: bytes, **how: int) -> bytes:
        packed = compress(raw, **how)
        return packed[:-20] + bytes([packed[-20] ^ 1]) + packed[-19:]

    with monkeypatch.context() as patch:
        patch.setattr(gzip, "compress", flipped)
        with pytest.raises(LogError, match=r"line \d+: "):
            await everything(store, folder)
    assert names(folder) == [".lock"]
    assert len(await everything(store, folder)) == 1


async def test_what_cannot_be_archived_is_kept_up_to_a_limit(
    config: Config, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the archive fails nothing is trimmed, and it is said once; the log twice as large as it should
    be is trimmed all the same, loudly; once the folder can be used, archiving goes on by itself."""
    caplog.set_level(logging.INFO, "orion.retention")
    store, agent = MemoryStore(), Agent(MemoryStore(), WORKER)
    in_the_way(folder)
    small = keeping(config, snapshot_events=50, log_keep_ms=1, archive_dir=str(folder))
    router, agent = Router(store.log, small), Agent(store, WORKER)
    await router.start()
    await work_for_a_while(store, router, agent, 30)
    assert await store.log.first_position() == 1
    assert len([line for line in caplog.messages if "not archived" in line]) == 1

    huge = b"x" * 2_100_000
    await store.add("log", {"event": huge}, f"{await store.log.last_position() + 1}-0")
    tight = keeping(config, log_keep_mb=1, log_keep_ms=1, archive_dir=str(folder))
    router.retention.config = tight
    await router.retention.trim_log(router.state.grid)
    first = await store.log.first_position()
    assert first > 1
    assert any("archived only to 0" in line for line in caplog.messages)
    await store.delete("log", f"{await store.log.last_position()}-0")
    store.memory._tops["log"] = f"{await store.log.last_position()}-0"

    in_the_way(folder, gone=True)
    router.retention.config = small
    await work_for_a_while(store, router, agent, 20)
    assert any("archived again" in line for line in caplog.messages)
    assert segments(folder)[0].first >= first


async def test_what_stands_in_the_way_ends_no_router(
    config: Config, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A leftover that cannot be removed is an error of the archive alone: the router goes on, it is said
    once, nothing is trimmed, and archiving goes on once it is gone."""
    left = folder / ".left.part"
    left.mkdir(parents=True)
    store = MemoryStore()
    small = keeping(config, snapshot_events=50, log_keep_ms=1, archive_dir=str(folder))
    router, agent = Router(store.log, small), Agent(store, WORKER)
    await router.start()
    await work_for_a_while(store, router, agent, 20)
    assert len([line for line in caplog.messages if "not archived" in line]) == 1
    assert await store.log.first_position() == 1
    left.rmdir()
    await work_for_a_while(store, router, agent, 20)
    assert await store.log.first_position() > 1


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), LogError("no room")])
async def test_any_error_of_the_archive_is_survived(
    config: Config,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Whatever a disk fails with, the task that archives ends well, and says it once."""

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(archive, "lock", failing)
    small = keeping(config, snapshot_events=50, log_keep_ms=1, archive_dir=str(folder))
    await grown(MemoryStore(), small, 20)
    said = [line for line in caplog.messages if str(error) in line]
    assert said == [f"the log is not archived: {error}"]


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
    assert router.retention._archiving is None
    assert encode_grid(Grid()) != encode_grid(router.state.grid)
