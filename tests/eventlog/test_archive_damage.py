"""What was done to the files of an archive is named by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest

from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog import archive
from orion_streams.eventlog.archive import segments
from orion_streams.eventlog.jsonl import is_head
from orion_streams.protocol.commit_builder import chain
from tests.conftest import MemoryStore
from tests.eventlog.archived_logs import everything, grown, rows
from tests.eventlog.test_retention import WORKER, work_for_a_while
from tests.helpers import Agent


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
    with pytest.raises(LogError, match=f"{path}: line {heads[0]}: what stands at positions"):
        rows(folder)


async def test_a_change_after_the_last_head_is_named(config: Config, folder: Path) -> None:
    """The last commit of a file has no later head in it: the header's own hash shows the change."""
    path = (await archived(config, folder))[-1]
    last = len(gzip.decompress(path.read_bytes()).split(b"\n")) - 1
    edited(path, last, b'"event"', b'"Event"')
    with pytest.raises(LogError, match=f"{path}: line {last}: what stands at positions"):
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
