"""`orion log archive`: write the log to compressed files, from where the last file ends."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_result
from orion_streams.errors import EXIT_DEGRADED, EXIT_OK
from orion_streams.eventlog.archive import Written, archive_next, segments
from orion_streams.eventlog.port import Log
from orion_streams.replay.source import LiveSource


class Archived(Struct, frozen=True):
    """The result: positions `first` to `last` in `files` new files (0 to 0 if there was nothing new).
    `archived_to`: the last position of the archive. `missing`: positions that were trimmed before they were
    archived."""

    folder: str
    files: int
    first: int
    last: int
    archived_to: int
    missing: list[tuple[int, int]]


async def run(*, folder: str, common: CommonOptions) -> int:
    """Archive the log and print the result. Return EXIT_DEGRADED if positions were trimmed before they were
    archived. Raises BackendError, ConfigError, LogError."""
    place = Path(folder).expanduser()  # noqa: ASYNC240 - once, and before anything else
    async with log_sources.source(None, common.redis_url, common.config_path) as log:
        assert isinstance(log, LiveSource)  # noqa: S101 - the source was opened without a file
        files = await archive_all(log.store, (await log.config()).prefix, place)
    first, last = (files[0].first, files[-1].last) if files else (0, 0)
    missing = [file.missing for file in files if file.missing]
    reach = max((each.last for each in segments(place)), default=0)
    done = Archived(
        folder=folder, files=len(files), first=first, last=last, archived_to=reach, missing=missing
    )
    write_result(done, sentence(done), common.as_json)
    for gap in missing:
        tell(f"orion: the archive lacks positions {gap[0]} to {gap[1]}: they were trimmed before")
    return EXIT_DEGRADED if missing else EXIT_OK


async def archive_all(store: Log, prefix: str, folder: Path) -> list[Written]:
    """Archive everything up to the current end of the log, file by file, with a progress bar."""
    until, files = await store.last_position(), list[Written]()
    with log_sources.progress("archiving", 1, until) as see:
        while file := await archive_next(store, prefix, folder, until):
            files.append(file)
            see(file.last)
    return files


def sentence(done: Archived) -> str:
    """Describe the result in a sentence."""
    if not done.files:
        return f"nothing new: {done.folder} reaches position {done.archived_to}"
    files = "1 file" if done.files == 1 else f"{done.files} files"
    return f"positions {done.first} to {done.last} in {files}: {done.folder}"
