"""A large file is read in little memory, and judged in little more."""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orion_streams.eventlog.jsonl import FORMAT, Header
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.protocol.commit_builder import GENESIS, chain

NIGHTLY = bool(os.environ.get("ORION_NIGHTLY"))
READ = """
import asyncio, sys
from pathlib import Path
from orion_streams.replay import source
from orion_streams.replay.source import FileSource
from orion_streams.replay.verify import verify

source.PENDING_BYTES = 1_000_000

async def use(path, small):
    log = FileSource(path)
    _, last = await log.bounds()
    if small or sys.argv[3] == "verify":
        report = await verify(log)
        assert (report.events, report.diverged) == (last, 0), report
        await log.state_at(last)
    return last

def peak_kb():
    status = Path("/proc/self/status").read_text()  # ru_maxrss has the parent's peak from before exec
    return int(status.partition("VmHWM:")[2].split()[0])

asyncio.run(use(Path(sys.argv[1]), True))
before = peak_kb()
last = asyncio.run(use(Path(sys.argv[2]), False))
print(last, peak_kb() - before)
"""


def rows() -> Iterator[bytes]:
    """A quiet grid's log: a sample a second."""
    digest = GENESIS
    for number in itertools.count(1):
        rules = (NodeRules("orion-worker"),)
        event: ev.Event = ev.NodeSampled(
            "orion-worker", "b", number * 1000, 50_000 + number % 5_000, 2_000, 8_000, 100
        )
        if number == 1:
            event = ev.PolicyChanged(1, "p", Policy(), rules, decider=2)
        head = ev.Committed(number, 1_800_000_000_000 + number * 1000, 1, number > 1, digest.hex())
        for raw in (event_codec.encode(head), event_codec.encode(event)):
            digest = chain(digest, raw)
            yield raw


def write(path: Path, count: int) -> int:
    """So many rows in a file; its size when it is read."""
    digest = GENESIS
    for raw in itertools.islice(rows(), count):
        digest = chain(digest, raw)
    header = Header(
        orion_log=FORMAT, prefix="orion:", first=1, hash=GENESIS.hex(), last=count, last_hash=digest.hex()
    )
    size = 0
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        for line in itertools.chain([msgspec.json.encode(header)], itertools.islice(rows(), count)):
            size += file.write(line + b"\n")
    return size


@pytest.mark.parametrize(
    ("what", "name", "count"),
    [
        ("read", "log.jsonl", 2_000_000 if NIGHTLY else 200_000),
        ("read", "log.jsonl.gz", 2_000_000 if NIGHTLY else 200_000),
        ("verify", "log.jsonl.gz", 500_000 if NIGHTLY else 100_000),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, what: str, name: str, count: int) -> None:
    """Read, verified and folded: beyond what a small file takes there are a few MB, whatever its size."""
    grown, size = growth(READ, tmp_path, name, count, what)
    assert grown < max(size // 4, 6_000_000), f"{grown} more for {size} bytes"


def growth(script: str, folder: Path, name: str, count: int, what: str) -> tuple[int, int]:
    """By how many bytes a process grows that has read a small file and now reads one with so many rows;
    that one's size, not compressed."""
    small, large = folder / f"small-{name}", folder / name
    write(small, 4_000)
    size = write(large, count)
    words = [sys.executable, "-c", script, str(small), str(large), what]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last, grown_kb = map(int, done.stdout.split())
    assert last == count
    return grown_kb * 1024, size


def test_a_file_that_is_kept_whole_would_show(tmp_path: Path) -> None:
    """The control: a reader that keeps all rows grows with the file."""
    keep = "kept = list(log.read()); last = kept[-1].rows[-1][0]"
    keeping = READ.replace("_, last = await log.bounds()", keep)
    grown, size = growth(keeping, tmp_path, "log.jsonl", 200_000, "read")
    assert grown > size
