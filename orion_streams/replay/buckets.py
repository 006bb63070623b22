"""Downsample series: keep the lowest and the highest value of each bucket, so that no peak is lost."""

from __future__ import annotations

from collections.abc import Sequence

FINEST_MS = 1_000


class Buckets:
    """Values over time in buckets of `width_ms`, with the lowest and the highest value of each channel.
    Buckets are widened to stay at `most` of them; empty ones are left out. Times are ≥ 0 and never go
    back."""

    def __init__(self, channels: int, most: int) -> None:
        self.width_ms = FINEST_MS
        self.most = most
        self.channels = channels
        self.rows: dict[int, list[int | None]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, ms: int, values: Sequence[int | None]) -> None:
        """Add one value for each channel, None where there is none."""
        key = ms // self.width_ms
        row = self.rows.get(key)
        if row is None:
            self.rows[key] = [value for value in values for _ in range(2)]
            while len(self.rows) > self.most:
                self.coarsen()
        else:
            widen(row, values, values)

    def coarsen(self) -> None:
        """Double the width of the buckets."""
        self.width_ms *= 2
        fine, self.rows = self.rows, {}
        for key, row in fine.items():
            known = self.rows.setdefault(key // 2, row)
            if known is not row:
                widen(known, row[::2], row[1::2])

    def columns(self) -> list[tuple[list[int | None], list[int | None]]]:
        """Return for each channel the lowest and the highest values, in the order of time."""
        rows = self.rows.values()
        return [
            ([row[2 * n] for row in rows], [row[2 * n + 1] for row in rows]) for n in range(self.channels)
        ]


def widen(row: list[int | None], lows: Sequence[int | None], highs: Sequence[int | None]) -> None:
    """Widen the range of a bucket by other lowest and highest values."""
    for n, (low, high) in enumerate(zip(lows, highs, strict=True)):
        if low is None or high is None:
            continue
        lowest, highest = row[2 * n], row[2 * n + 1]
        if lowest is None or low < lowest:
            row[2 * n] = low
        if highest is None or high > highest:
            row[2 * n + 1] = high


def fit(many: Sequence[Buckets], most: int) -> None:
    """Coarsen the largest of them until all together have at most `most` buckets."""
    while sum(map(len, many)) > most:
        longest = max(many, key=len)
        if len(longest) < 2:
            return
        longest.coarsen()
