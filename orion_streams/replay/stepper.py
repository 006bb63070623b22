"""Step through a log commit by commit, forwards and backwards."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from orion_streams.eventlog.jsonl import Row, is_head
from orion_streams.eventlog.loader import fold_raw
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.export import head_before
from orion_streams.replay.source import Source

REMEMBERED = 1_000
"""Ends of commits that are remembered, so that going back needs no search."""


class Stepper:
    """A position between two commits: `state` there, and `commit`, the rows of the last one."""

    def __init__(self, log: Source, state: LoggedGrid) -> None:
        self.log, self.state = log, state
        self.commit: list[Row] = []
        self._passed: deque[int] = deque(maxlen=REMEMBERED)
        self._rows: AsyncIterator[Row] | None = None
        self._next: Row | None = None

    @property
    def position(self) -> int:
        """Return the last position folded into `state`."""
        return self.state.grid.position

    async def forward(self) -> bool:
        """Go to the end of the next commit; return False at the end of the log."""
        if self._rows is None:
            self._rows = rows_of(self.log, self.position)
            self._next = await anext(self._rows, None)
        if self._next is None:
            return False
        commit = [self._next]
        while (row := await anext(self._rows, None)) is not None and not is_head(row[1]):
            commit.append(row)
        self._next = row
        self._passed.append(self.position)
        fold_raw(self.state, commit)
        self.commit = commit
        if row is None:  # no head follows that confirms it; a file has its hash
            await self.log.state_at(self.position)
        return True

    async def back(self) -> bool:
        """Go to the end of the commit before; return False at the beginning of the log."""
        first, _ = await self.log.bounds()
        if self.position < first:
            return False
        end = self._passed.pop() if self._passed else await head_before(self.log, self.position) - 1
        passed = self._passed.copy()
        await self.go(end)
        self._passed = passed
        return True

    async def go(self, position: int) -> None:
        """Go to the end of the commit that holds a position. Raises LogError."""
        first, _ = await self.log.bounds()
        start = await head_before(self.log, position) if position >= first else position + 1
        self.state = await self.log.state_at(start - 1)
        self.commit, self._rows, self._next = [], None, None
        self._passed.clear()
        if position >= first:
            await self.forward()
            self._passed.clear()


async def rows_of(log: Source, after: int) -> AsyncIterator[Row]:
    """Yield rows one by one."""
    async for stretch in log.stretches(after):
        for row in stretch.rows:
            yield row
