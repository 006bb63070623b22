"""`orion log archive`: the log into compressed files, from where the last one ends."""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec import Struct

from orion_streams.cli import grid_discovery, log_sources
from orion_streams.cli.grid_discovery import opened
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_json
from orion_streams.errors import EXIT_DEGRADED, EXIT_OK, BackendError
from orion_streams.eventlog.archive import Written, archive_next, segments
from orion_streams.eventlog.redis_log import RedisLog


class Archived(Struct, frozen=True):
    """What was done: positions `first` to `last` in so many new files (0 to 0: nothing was new);
    `archived_to`: where the archive ends now. `missing`: positions that were trimmed before."""

    folder: str
    files: int
    first: int
    last: int
    archived_to: int
    missing: list[tuple[int, int]]


async def run(*, folder: str, common: CommonOptions) -> int:
    """Archive and say what was done. The exit code: 3 when positions are missing that were trimmed since
    the last time. Raises BackendError, ConfigError, LogError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    place = Path(folder).expanduser()  # noqa: ASYNC240 - once, and before anything else
    async with opened(config) as store:
        files = await archive_all(store, config.prefix, place)
    first, last = (files[0].first, files[-1].last) if files else (0, 0)
    missing = [file.missing for file in files if file.missing]
    reach = max((each.last for each in segments(place)), default=0)
    done = Archived(
        folder=folder, files=len(files), first=first, last=last, archived_to=reach, missing=missing
    )
    if common.as_json:
        write_json(done)
    else:
        sys.stdout.write(sentence(done) + "\n")
    for gap in missing:
        tell(f"orion: the archive lacks positions {gap[0]} to {gap[1]}: they were trimmed before")
    return EXIT_DEGRADED if missing else EXIT_OK


async def archive_all(store: RedisLog, prefix: str, folder: Path) -> list[Written]:
    """Everything up to where the log ends now, file by file; a bar on the terminal."""
    until, files = await store.last_position(), list[Written]()
    if until == 0:
        raise BackendError(f"{store.key('log')} is empty: no router has run on this Redis yet")
    with log_sources.progress("archiving", 1, until) as see:
        while file := await archive_next(store, prefix, folder, until):
            files.append(file)
            see(file.last)
    return files


def sentence(done: Archived) -> str:
    """What was done, for a person."""
    if not done.files:
        return f"nothing new: {done.folder} reaches position {done.archived_to}"
    files = "1 file" if done.files == 1 else f"{done.files} files"
    return f"positions {done.first} to {done.last} in {files}: {done.folder}"
