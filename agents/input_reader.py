"""Read what waits in a grid's input streams."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from orion_streams.config import Config
from orion_streams.eventlog.port import Log
from orion_streams.model.commit import Guard, Raw
from orion_streams.model.policy import ClientRules
from orion_streams.model.state import Grid
from orion_streams.runtime.read_size import ReadSize, size_of


class Inputs(Struct, frozen=True, kw_only=True):
    """Entries of one read, and the server's time. `drained`: streams of which nothing more waits.
    `slept_ms`: how long this process had not read before, beyond the wait that it asked for."""

    server_ms: int
    entries: list[Raw]
    drained: frozenset[str]
    slept_ms: float


class InputReader:
    """Reads the inputs of a grid, a batch of each stream at a time: `limits.batch_entries`, fewer of large
    ones."""

    def __init__(self, store: Log, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._size = store, ReadSize(config.limits.batch_entries)
        self._clock, self._read_s = clock, clock()
        nodes = sorted(config.nodes)
        self.of_nodes = [f"{kind}:{name}" for kind in ("results", "health") for name in nodes]
        self._named, self._guests, self._streams = config.clients, dict[str, ClientRules](), list[str]()

    def streams(self, grid: Grid) -> list[str]:
        """List all inputs, in the order they are taken: results before the health entry that refers to
        them, then the requests of clients and guests."""
        if grid.guests is not self._guests or not self._streams:  # their table is never changed in place
            of_clients = [f"requests:{name}" for name in grid.all_clients(self._named)]
            self._guests, self._streams = grid.guests, [*self.of_nodes, *of_clients]
        return self._streams

    async def read(self, streams: Sequence[str], guard: Guard, block_ms: int) -> Inputs:
        """Read the entries above the guard's cursors; wait up to `block_ms` for the first one."""
        cursors = {name: guard.cursors.get(name, "0-0") for name in streams}
        limit = self._size.count
        server_ms, entries = await self._store.read(cursors, limit, block_ms)
        counts = Counter(raw.stream for raw in entries)
        self._size.saw(max(counts.values(), default=0), size_of(raw.fields for raw in entries))
        before_s, self._read_s = self._read_s, self._clock()
        return Inputs(
            server_ms=server_ms,
            entries=entries,
            drained=drained(streams, counts, limit),
            slept_ms=(self._read_s - before_s) * 1000 - block_ms,
        )


def drained(streams: Sequence[str], counts: Mapping[str, int], limit: int) -> frozenset[str]:
    """Return the streams of which a read of up to `limit` entries each left nothing."""
    return frozenset(name for name in streams if counts.get(name, 0) < limit)
