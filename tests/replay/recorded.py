"""Logs for the tests of replay: made by the real router, in memory, and written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from orion_streams.config import Config
from orion_streams.eventlog.jsonl import FORMAT, Header, is_head
from orion_streams.protocol.commit_builder import GENESIS, chain
from orion_streams.replay.export import export
from orion_streams.replay.source import LiveSource
from tests.conftest import MemoryStore
from tests.eventlog.driving import running
from tests.eventlog.test_retention import WORKER, work_for_a_while
from tests.helpers import Agent


async def grown(config: Config, rounds: int = 20, snapshot_events: int = 40) -> MemoryStore:
    """A log of a grid that has worked for a while, with its snapshots."""
    often = structs.replace(config.retention, snapshot_events=snapshot_events)
    store = MemoryStore()
    router = await running(store, structs.replace(config, retention=often))
    await work_for_a_while(store, router, Agent(store, WORKER), rounds)
    return store


async def exported(store: MemoryStore, config: Config, path: Path, first: int = 1, last: int = 0) -> Path:
    """The log in a file."""
    log = LiveSource(store.log, config)
    await export(log, path, first, last or await store.log.last_position(), lambda _: None)
    return path


def mended(rows: Sequence[bytes], digest: bytes = GENESIS) -> list[bytes]:
    """The rows with the running hash in their heads set right, as a careful forger would."""
    found = []
    for row in rows:
        raw = row
        if is_head(row):
            raw = msgspec.json.encode(msgspec.json.decode(row) | {"hash": digest.hex()})
        digest = chain(digest, raw)
        found.append(raw)
    return found


def one_segment(rows: Sequence[bytes]) -> bytes:
    """The text of a file that holds these rows from position 1 on, whatever they are."""
    digest = GENESIS
    for row in rows:
        digest = chain(digest, row)
    header = Header(
        orion_log=FORMAT,
        prefix="orion:",
        first=1,
        hash=GENESIS.hex(),
        last=len(rows),
        last_hash=digest.hex(),
    )
    return b"\n".join([msgspec.json.encode(header), *rows, b""])


def rows_in(text: bytes) -> list[bytes]:
    """The log's entries in a file's text, without the headers."""
    return [line for line in text.splitlines() if not line.startswith(b'{"event":"log.segment"')]
