"""A recorded log on a real server, with snapshots as a router keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import fold_raw, take_snapshot
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.replay.decided import Row

BATCH = 1_000


async def put_log(redis: Any, prefix: str, rows: Sequence[Row], snapshot_events: int = 0) -> None:
    """Write the rows, and a snapshot after each `snapshot_events`, at the end of a commit (0: none)."""
    for start in range(0, len(rows), BATCH):
        pipe = redis.pipeline(transaction=False)
        for position, raw in rows[start : start + BATCH]:
            pipe.xadd(f"{prefix}log", {"event": raw}, id=f"{position}-0")
        await pipe.execute()
    if not snapshot_events:
        return
    store, state, kept = RedisLog(redis, prefix), LoggedGrid(Grid()), 0
    for position, raw in rows:
        if position - 1 - kept >= snapshot_events and is_head(raw):
            await store.save_snapshot(take_snapshot(state))
            kept = position - 1
        fold_raw(state, ((position, raw),))
