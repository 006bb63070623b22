"""What the tests of bad files share: reading all of a file, and what is said of one that is refused."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import NamedTuple

import pytest

from orion_streams.errors import LogError
from orion_streams.model.state import Grid
from orion_streams.replay.source import FileSource
from orion_streams.replay.verify import verify

Lines = list[bytes]
FAR_MS = 4_000_000_000_000


class Read(NamedTuple):
    """What a recording comes to."""

    events: int
    decisions: int
    diverged: int
    state: Grid
    digest: bytes


async def read(path: Path) -> Read:
    """Everything that can be asked of a file; LogError of the verification, the others as they come."""
    log = FileSource(path)
    for asked in (log.bounds(), log.position_at(FAR_MS), log.state_at(1), log.config()):
        try:
            await asked
        except LogError as error:
            assert path.name in str(error)
    report = await verify(log)
    _, last = await log.bounds()
    state = await log.state_at(last)
    return Read(report.events, report.decisions, report.diverged, state.grid, state.digest)


def refusal(path: Path) -> str:
    """What is said of a file that cannot be verified: which file, and where."""
    with pytest.raises(LogError) as caught:
        asyncio.run(read(path))
    said = str(caught.value)
    assert type(caught.value) is LogError
    assert said.startswith(str(path)), said
    return said


def written(path: Path, text: bytes) -> Path:
    """The text in a file, compressed as its name says."""
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def outcome(path: Path) -> Read | str:
    """What a file comes to, or why it is refused."""
    try:
        return asyncio.run(read(path))
    except LogError as error:
        return str(error)
