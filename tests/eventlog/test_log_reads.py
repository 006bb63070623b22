"""Reading, following, snapshots and trims of the log: the same on MemoryLog, Valkey and Redis."""

from __future__ import annotations

import asyncio

import pytest

from orion_streams.errors import LogError
from orion_streams.eventlog.loader import next_head
from orion_streams.model.commit import Expected, Extent, Raw, Snapshot
from orion_streams.model.state import parse_stream_id
from tests.conftest import ServerStore
from tests.eventlog.committing import assert_refused, begin, next_commit
from tests.helpers import WAIT_S, Store, eventually, make_commit, snapshots


async def test_reads_give_entries_in_order_and_bounded(store: Store) -> None:
    """Each stream gives at most `count` entries above its cursor, in order, and no others."""
    health = [await store.add("health:n1", {"n": n}) for n in range(5)]
    results = [await store.add("results:n1", {"n": n}) for n in range(2)]
    await store.add("requests:brain", {"n": 0})
    cursors = {"results:n1": "0-0", "health:n1": health[0], "health:n2": "0-0"}
    server_ms, found = await store.log.read(cursors, 3, 0)
    assert [(raw.stream, raw.id) for raw in found] == [
        *(("results:n1", each) for each in results),
        *(("health:n1", each) for each in health[1:4]),
    ]
    assert found[-1] == Raw("health:n1", health[3], {b"n": b"3"})
    assert server_ms >= parse_stream_id(health[-1])[0]


async def test_a_read_of_nothing_gives_the_servers_time(store: Store) -> None:
    """Nothing above the cursors: no entries, but a time, with and without blocking."""
    last = await store.add("health:n1", {"n": 1})
    for block_ms in (0, 20):
        server_ms, found = await store.log.read({"health:n1": last, "health:n2": "0-0"}, 10, block_ms)
        assert found == []
        assert server_ms >= parse_stream_id(last)[0]


async def test_a_blocking_read_ends_with_the_entry(store: Store) -> None:
    """A reader that waits is woken by the first entry of any of its streams."""
    before = await store.blocked()
    reading = asyncio.create_task(store.log.read({"health:n1": "0-0", "health:n2": "0-0"}, 10, 60_000))

    async def waits() -> bool:
        return await store.blocked() > before

    await eventually(waits, "the reader waits")
    assert not reading.done()
    added = await store.add("health:n2", {"n": 1})
    _, found = await asyncio.wait_for(reading, WAIT_S)
    assert found == [Raw("health:n2", added, {b"n": b"1"})]


async def test_a_commit_wakes_who_follows_the_log(store: Store) -> None:
    """A follower that waits at the log's end reads the next commit's events."""
    expected = await begin(store)
    before = await store.blocked()
    reading = asyncio.create_task(store.another().read({"log": "2-0"}, 10, 60_000))

    async def waits() -> bool:
        return await store.blocked() > before

    await eventually(waits, "the follower waits")
    await store.log.commit(next_commit(expected))
    _, found = await asyncio.wait_for(reading, WAIT_S)
    assert found == [Raw("log", "3-0", {b"event": b"three"})]


@pytest.mark.parametrize(("ids", "gap"), [((2,), "after 0 comes 2"), ((1, 2, 4), "after 2 comes 4")])
async def test_a_gap_in_the_log_is_named(store: Store, ids: tuple[int, ...], gap: str) -> None:
    """Positions that do not follow each other are an error that says where."""
    for position in ids:
        await store.add("log", {"event": b"x"}, f"{position}-0")
    with pytest.raises(LogError, match=gap):
        await store.log.events(0, 10)


async def test_an_entry_of_the_log_that_is_no_position_is_named(store: Store) -> None:
    """An id such as 1-5, written by hand, is an error, and no commit passes it."""
    await store.add("log", {"event": b"x"}, "1-5")
    with pytest.raises(LogError, match="1-5"):
        await store.log.events(0, 10)
    for position in (0, 1):
        await assert_refused(store, make_commit(Expected(position=position), events=(b"y",)), LogError)


async def test_a_snapshot_is_found_from_both_sides(store: Store) -> None:
    """Snapshots come back whole: the newest at or before a position, and the oldest beyond it."""
    taken = [Snapshot(n, f"digest {n}", bytes(range(256)) * n) for n in (10, 20, 30)]
    assert await store.log.snapshot_before(20) is await store.log.snapshot_after(0) is None
    for snapshot in taken:
        await store.log.save_snapshot(snapshot)
    before = [await store.log.snapshot_before(position) for position in (-1, 9, 10, 19, 20, 99)]
    assert before == [None, None, taken[0], taken[0], taken[1], taken[2]]
    after = [await store.log.snapshot_after(position) for position in (-1, 9, 10, 29, 30)]
    assert after == [taken[0], taken[0], taken[1], taken[2], None]
    await store.log.trim("snapshots", "20-0")
    assert (await snapshots(store.log))[0] == taken[2]


async def test_trimming_keeps_what_is_not_below(store: Store) -> None:
    """Entries at and above the given id stay, most of those below go."""
    ids = [await store.add("health:n1", {"n": n}, f"{1000 + n}-0") for n in range(350)]
    await store.log.trim("health:n1", ids[320])
    left = [entry_id for entry_id, _ in await store.entries("health:n1")]
    assert left[-30:] == ids[320:]
    assert left == ids[-len(left) :]
    assert len(left) < 150
    assert await store.log.oldest_ids("health:n1", 2) == left[:2]
    length, size = await store.log.size("health:n1")
    assert length == len(left)
    assert size > 0


async def test_trimming_what_is_not_there_changes_nothing(store: Store) -> None:
    """A stream that does not exist is not made by trimming, measuring or listing it."""
    await store.log.trim("health:n9", "5-0")
    assert await store.log.size("health:n9") == (0, 0)
    assert await store.log.oldest_ids("health:n9", 3) == []
    assert await store.entries("health:n9") == []


async def test_a_search_beyond_the_log_ends(store: Store) -> None:
    """As when it was deleted meanwhile: there is no head, and nobody searches for ever."""
    assert await next_head(store.log, 1, 50) == (None, 51)


async def test_tops_outlive_their_entries(store: Store) -> None:
    """The last id that a stream gave stays known when its entry is deleted; no stream: 0-0."""
    await store.add("health:n1", {"n": 1}, "10-0")
    last = await store.add("health:n1", {"n": 2}, "11-2")
    await store.delete("health:n1", last)
    there, not_there = (await store.log.extents(["health:n1", "health:n2"])).values()
    assert (there.first, there.top, there.length, there.added) == ("10-0", "11-2", 1, 2)
    assert not_there == Extent()


async def test_the_top_of_something_else_is_an_error(server_store: ServerStore) -> None:
    """A key that is no stream is named."""
    await server_store.redis.set(server_store.prefix + "health:n1", "a string")
    with pytest.raises(LogError, match="health:n1"):
        await server_store.log.extents(["health:n1"])


async def test_a_group_is_made_once(server_store: ServerStore) -> None:
    """Making the agent's consumer group again changes nothing, and it begins at the stream's beginning."""
    await server_store.add("work:n1", {"head": "run"})
    for _ in range(2):
        await server_store.log.make_group("work:n1", "0-0")
    [group] = await server_store.redis.xinfo_groups(server_store.prefix + "work:n1")
    assert group["last-delivered-id"] == b"0-0"
