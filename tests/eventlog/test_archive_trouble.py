"""Archiving while things break: kills, disks and folders; never half a file, and no router ends of it."""

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

import pytest

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog import archive
from orion_streams.eventlog.archive import segments
from tests.conftest import MemoryStore
from tests.eventlog.archived_logs import everything, grown, in_the_way, names, rows
from tests.eventlog.test_retention import WORKER, keeping, work_for_a_while
from tests.helpers import Agent

ROOT = Path(__file__).parents[2]

KILLED = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from orion_streams.eventlog import archive
from orion_streams.runtime.connection import connect
from orion_streams.eventlog.redis_log import RedisLog

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
    await archive.archive_next(store, prefix, Path(folder), await store.last_position())

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
