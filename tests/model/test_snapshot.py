"""Snapshots outlive the code that wrote them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.snapshot import SHAPE, decode_grid, encode_grid
from orion_streams.model.state import Load, Run
from orion_streams.model.vocabulary import Mark
from orion_streams.replay.export import bring_in
from orion_streams.replay.source import FileSource, LiveSource
from orion_streams.replay.verify import verify
from orion_streams.runtime.connection import connect

TRIMMED = Path(__file__).with_name("trimmed-shape-1.jsonl.gz")
"""A log whose first 123 entries are gone: a snapshot of shape 1 stands for them. Then a worker is hot,
and three runs are assigned."""


async def test_a_trimmed_log_of_shape_1_is_read(config: Config, valkey_url: str, prefix: str) -> None:
    """From file and server: the snapshot is converted, every decision after it is counted as an older
    version's, and the running hash at the end is the one that was written."""
    source = FileSource(TRIMMED)
    report = await verify(source)
    assert (report.diverged, report.decisions, report.snapshots) == (0, 0, 0)
    assert (report.older, report.older_deciders) == (8, [2])
    redis: Any = connect(valkey_url)
    moved = await bring_in(source, redis, prefix, lambda *_: None)
    store = RedisLog(redis, prefix)
    first, last = await load(store, moved.first - 1), await load(store)
    assert (moved.first, last.grid.position) == (124, 202)
    assert first.grid.nodes["orion-worker"].backed_off == (Mark.HOT,)
    assert (
        sum(isinstance(held, Run) for row in first.grid.nodes.values() for held in row.assignments.values())
        == 3
    )
    assert ("orion-worker", "llama3.2:3b") in first.grid.speeds
    assert (await verify(LiveSource(store, config))).diverged == 0
    assert decode_grid(encode_grid(last.grid)) == last.grid
    await redis.aclose()


def test_a_held_item_without_a_request_was_an_ordered_load() -> None:
    """Of shape 1, with joined keys and words; what it does not have keeps its default."""
    held = {"model": "a", "run_ms": 9, "since_ms": 5, "cold": True, "load_ms": 9, "reserve_mb": 7}
    node = {
        "rules": {"name": "n"},
        "backed_off": "hot ram",
        "holdings": {
            "5-0": {**held, "request": "", "attempt": 0},
            "6-0": {**held, "request": "c/1", "attempt": 2},
        },
    }
    old = {
        "position": 3,
        "nodes": {"n": node},
        "speeds": {"n a:1b": {"load_ms": 4}},
        "footprints": {"d 8 1": 6, "d 8": 5},  # one without slots is measured again
    }
    grid = decode_grid(msgspec.msgpack.encode(old))
    row = grid.nodes["n"]
    assert row.backed_off == (Mark.HOT, Mark.RAM)
    assert row.assignments["5-0"] == Load(model="a", run_ms=9, since_ms=5, reserve_mb=7)
    assert isinstance(row.assignments["6-0"], Run)
    assert (row.assignments["6-0"].request, row.assignments["6-0"].load_ms) == ("c/1", 9)
    assert grid.speeds["n", "a:1b"].load_ms == 4
    assert grid.footprints == {("d", 8, 1): 6}
    oldest = decode_grid(msgspec.msgpack.encode({"position": 2, "nodes": {"n": {"rules": {"name": "n"}}}}))
    assert (oldest.position, oldest.speeds, oldest.nodes["n"].assignments) == (2, {}, {})


def test_an_unknown_shape_is_refused_by_name() -> None:
    """A snapshot of a newer version is not guessed at."""
    newer = msgspec.msgpack.encode((SHAPE + 1, {}))
    with pytest.raises(
        LogError, match=re.escape(f"has shape {SHAPE + 1}, and this version reads 1 to {SHAPE}")
    ):
        decode_grid(newer)


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\x92", b"\x81\xa1a\x01", msgspec.msgpack.encode({"nodes": {"n": 1}})]
)
def test_what_is_no_snapshot_is_a_decode_error(raw: bytes) -> None:
    """Nothing, no MessagePack, half a pair, and maps that are no grid."""
    with pytest.raises(msgspec.DecodeError):
        decode_grid(raw)
