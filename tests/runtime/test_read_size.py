"""How much is read at a time follows the size of what came."""

from __future__ import annotations

import pytest

from orion_streams.agents.input_reader import InputReader
from orion_streams.config import Config
from orion_streams.model.commit import Guard, Raw
from orion_streams.runtime.faust_redis import App, Item, StreamChannel
from orion_streams.runtime.read_size import BUDGET, FIRST, ReadSize
from tests.helpers import Store

LARGE, MOST = 1_100_000, 64


def backlog(size: ReadSize, entry: int, reads: int) -> list[int]:
    """Read so many times where more of these entries always wait. The bytes of each read."""
    took = []
    for _ in range(reads):
        took.append(size.count * entry)
        size.saw(size.count, took[-1])
    return took


def test_a_backlog_of_small_entries_is_read_in_ever_larger_reads() -> None:
    """It doubles up to the limit, and not beyond."""
    size = ReadSize(MOST)
    backlog(size, 100, 3)
    assert size.count == 8 * FIRST
    backlog(size, 100, 9)
    assert size.count == MOST


def test_large_entries_are_read_within_the_budget() -> None:
    """From the first read on about BUDGET bytes; after a backlog of small ones once more than that, and
    never nothing."""
    quiet, busy = ReadSize(MOST), ReadSize(MOST)
    assert max(backlog(quiet, LARGE, 20)) <= BUDGET + LARGE
    backlog(busy, 100, 20)
    first, *rest = backlog(busy, LARGE, 20)
    assert first == MOST * LARGE
    assert max(rest) <= BUDGET + LARGE
    backlog(busy, 9 * BUDGET, 20)
    assert busy.count == 1


def test_a_quiet_time_makes_the_next_read_small() -> None:
    """A burst of large entries after it is met by a read of FIRST, whatever was read before."""
    size = ReadSize(MOST)
    backlog(size, 100, 20)
    for _ in range(10):
        size.saw(1, 100)
    assert size.count == FIRST
    assert ReadSize(2).count == 2


async def test_the_router_reads_few_large_entries_at_a_time(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 entries of a megabyte no read has more than its budget and one entry; with a count that stays
    (the control) the first one has them all."""
    for n in range(20):
        await store.add("requests:brain", {"id": f"q{n}", "prompt": "x" * 1_000_000})

    async def largest() -> int:
        reader, guard, most = InputReader(store.log, config), Guard(), 0
        while found := (await reader.read(["requests:brain"], guard, 0)).entries:
            most = max(most, sum(len(raw.fields[b"prompt"]) for raw in found))
            guard = Guard(cursors={"requests:brain": found[-1].id})
        return most

    assert await largest() <= BUDGET + 1_000_000
    monkeypatch.setattr(ReadSize, "saw", lambda *_: None)
    monkeypatch.setattr(ReadSize, "count", MOST, raising=False)
    monkeypatch.setattr(ReadSize, "__init__", lambda *_: None)
    assert await largest() == 20_000_000


class Scripted(StreamChannel):
    """A channel that counts how much it is asked for, over entries of its own."""

    def __init__(self, entries: list[Raw]) -> None:
        super().__init__(App("scripted"), redis=None, key="work:n")
        self.entries, self.asked = entries, list[int]()
        self.given = 0

    async def read(self, after: str, count: int, block_ms: int | None) -> list[Item]:
        self.asked.append(count)
        begin = self.given if after == ">" else int(after.partition("-")[0])
        rows = self.entries[begin : begin + count]
        self.given = begin + len(rows)
        return [Item(raw.id, raw.fields) for raw in rows]


@pytest.mark.parametrize("after", ["0", ">"])
async def test_a_channel_is_read_to_its_end_in_bounded_reads(after: str) -> None:
    """All entries in order, up to the limit, each once, at most about BUDGET bytes a read."""
    entries = [Raw("work:n", f"{n + 1}-0", {b"prompt": b"x" * LARGE}) for n in range(30)]
    channel = Scripted(entries)
    assert [item.id for item in await channel.read_all(after, 1_000)] == [raw.id for raw in entries]
    assert max(channel.asked) * LARGE <= BUDGET + LARGE
    assert len(await Scripted(entries).read_all(after, 7)) == 7
