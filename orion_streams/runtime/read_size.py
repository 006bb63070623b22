"""How many entries to ask a server for at a time. Its reads are counted in entries, and an entry may have a
few bytes or a megabyte: the count follows the size of what came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FIRST, BUDGET = 4, 4_000_000


class ReadSize:
    """The COUNT of the next read: 1 to `most`, about as many as have BUDGET bytes. It doubles after a read
    behind which more waits, and halves towards FIRST when little comes, so that a burst of large entries
    after a quiet time is met by a small read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = min(FIRST, most)

    def saw(self, entries: int, size: int) -> None:
        """Note a read: its entries of one stream, at most, and the bytes of all that came."""
        if size > BUDGET:
            self.count = max(self.count * BUDGET // size, 1)
        elif entries >= self.count and 2 * size <= BUDGET:
            self.count = min(2 * self.count, self._most)
        elif entries * 4 <= self.count and self.count > FIRST:
            self.count = max(self.count // 2, FIRST)


def size_of(rows: Iterable[Mapping[bytes, bytes]]) -> int:
    """Return the bytes of entries' names and values."""
    return sum(len(name) + len(value) for fields in rows for name, value in fields.items())
