"""Down-sampling: the lowest and the highest value in each span of time, so that no peak is lost."""

from __future__ import annotations

from collections.abc import Sequence

FINEST_MS = 1_000


class Buckets:
    """Values over time, each span with the lowest and the highest of it. Spans of `width_ms` are as short
    as `most` of them allow; one without any sample is left out. Times may not go back, nor below 0."""

    def __init__(self, channels: int, most: int) -> None:
        self.width_ms = FINEST_MS
        self.most = most
        self.channels = channels
        self.rows: dict[int, list[int | None]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, ms: int, values: Sequence[int | None]) -> None:
        """One value for each channel; None where there is none."""
        key = ms // self.width_ms
        row = self.rows.get(key)
        if row is None:
            self.rows[key] = [value for value in values for _ in range(2)]
            while len(self.rows) > self.most:
                self.coarsen()
        else:
            widen(row, values, values)

    def coarsen(self) -> None:
        """Make the spans twice as long."""
        self.width_ms *= 2
        fine, self.rows = self.rows, {}
        for key, row in fine.items():
            known = self.rows.setdefault(key // 2, row)
            if known is not row:
                widen(known, row[::2], row[1::2])

    def columns(self) -> list[tuple[list[int | None], list[int | None]]]:
        """For each channel the lowest and the highest values, in the order of time."""
        rows = self.rows.values()
        return [
            ([row[2 * n] for row in rows], [row[2 * n + 1] for row in rows]) for n in range(self.channels)
        ]


def widen(row: list[int | None], lows: Sequence[int | None], highs: Sequence[int | None]) -> None:
    """Let a span's lowest and highest values take in others."""
    for n, (low, high) in enumerate(zip(lows, highs, strict=True)):
        if low is None or high is None:
            continue
        lowest, highest = row[2 * n], row[2 * n + 1]
        if lowest is None or low < lowest:
            row[2 * n] = low
        if highest is None or high > highest:
            row[2 * n + 1] = high


def fit(many: Sequence[Buckets], most: int) -> None:
    """Coarsen the finest of them until all together have at most so many spans."""
    while sum(map(len, many)) > most:
        longest = max(many, key=len)
        if len(longest) < 2:
            return
        longest.coarsen()
