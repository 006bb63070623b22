"""What a soak measures: memory, descriptors and threads of each process, every stream, the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from msgspec import structs

from tests.chaos.soak_slope import Sample, Trend, trend

MB = 1024 * 1024
TOLERANCES = {"rss_mb": 3.0, "descriptors": 4.0, "threads": 2.0, "entries": 100.0, "disk_mb": 4.0}
"""Growth over the measured time that counts for nothing, by what is measured: RSS goes in steps of an
arena, pools of connections and threads breathe, streams are trimmed to about their limit."""
TOLERATED_SHARE = 0.03
"""Of the series' median, where that is more."""

Key = tuple[str, str]
"""(what is measured, of what)"""


class Series:
    """The samples of everything that is measured. `bounds`: how many entries streams of a kind may hold, as
    configured; one that is below it fills up, and is no leak."""

    def __init__(self, bounds: Mapping[str, int] | None = None) -> None:
        self.by_key: dict[Key, list[Sample]] = {}
        self._bounds = bounds or {}

    def add(self, at_s: float, what: str, of: str, value: float) -> None:
        """Add a sample."""
        self.by_key.setdefault((what, of), []).append((at_s, value))

    def trends(self) -> dict[Key, Trend]:
        """Return the trend of every series that has enough samples."""
        found = {}
        for key, samples in sorted(self.by_key.items()):
            middle = sorted(value for _, value in samples)[len(samples) // 2]
            now = trend(samples, max(TOLERANCES[key[0]], middle * TOLERATED_SHARE))
            if now is not None:
                found[key] = structs.replace(now, flat=now.flat or self._fills_up(key, now))
        return found

    def _fills_up(self, key: Key, now: Trend) -> bool:
        what, of = key
        bound = self._bounds.get(of.partition(":")[0], 0) if what == "entries" else 0
        return now.highest <= bound


def add_process(series: Series, at_s: float, name: str, pid: int | None) -> None:
    """Add what a process holds; nothing while it does not run."""
    if not pid:
        return
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            values = (process.memory_info().rss / MB, process.num_fds(), process.num_threads())
    except psutil.Error:
        return  # it has just ended
    for what, value in zip(("rss_mb", "descriptors", "threads"), values, strict=True):
        series.add(at_s, what, name, value)


async def add_streams(series: Series, at_s: float, redis: Any, prefix: str) -> None:
    """Add the length of every stream. Raises RedisError."""
    async for key in redis.scan_iter(match=f"{prefix}*", count=1_000, _type="stream"):
        series.add(at_s, "entries", key.decode().removeprefix(prefix), await redis.xlen(key))


def add_disk(series: Series, at_s: float, folder: Path) -> None:
    """Add the size of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # it has just gone
    series.add(at_s, "disk_mb", "everything", total / MB)


def rising(trends: Mapping[Key, Trend]) -> list[str]:
    """Say what is not flat."""
    return [
        f"{what} of {of} rises: {each.first:.1f} → {each.last:.1f}, {each.per_hour:+.1f} an hour"
        for (what, of), each in trends.items()
        if not each.flat
    ]
