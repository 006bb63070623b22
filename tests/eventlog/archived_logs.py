"""What the tests of the archive share: a log that grows, and what its files hold."""

from __future__ import annotations

from pathlib import Path

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.eventlog import jsonl
from orion_streams.eventlog.archive import archive_next, segments
from orion_streams.eventlog.jsonl import Row
from orion_streams.eventlog.loader import extend
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import FileSource
from tests.eventlog.driving import running
from tests.eventlog.test_retention import WORKER, work_for_a_while
from tests.helpers import Agent, Store


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
        return [row for stretch in jsonl.checked(path) for row in stretch.rows]
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
    router = await running(store, config)
    await work_for_a_while(store, router, Agent(store, WORKER), rounds)
    return router


async def folded(store: Store, folder: Path) -> LoggedGrid:
    """The state that archive and tail give together."""
    source = FileSource(folder)
    state = await source.state_at((await source.bounds())[1])
    await extend(store.log, state, await store.log.last_position())
    return state
