"""The log's contract: the same on MemoryLog, Valkey and Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import structs
from redis.exceptions import ResponseError

from orion_streams.commits import CURSOR, RELAYED, Commit, Guard, Head, OutEntry, Raw, Snapshot
from orion_streams.connection import connect
from orion_streams.errors import BodyGone, CommitConflict, LogError
from orion_streams.server import EmbeddedServer
from orion_streams.state import work_order
from tests.conftest import NEEDS_REDIS, REDIS_SERVER, ServerStore
from tests.helpers import Store, eventually, head_of, make_commit


async def begin(store: Store) -> Head:
    """A first commit with a little of everything; what the next one has to expect."""
    first = make_commit(
        events=(b"one", b"two"),
        outs=(OutEntry("work:n1", "1000-0", {"head": "run"}),),
        set={CURSOR + "health:n1": "5-0", RELAYED + "999-0": "3"},
    )
    await store.log.commit(first)
    return await head_of(store.log)


def next_commit(expected: Head, entry_id: str = "1001-0") -> Commit:
    """A commit that would write an event, an entry and a cursor."""
    return make_commit(
        expected,
        events=(b"three",),
        outs=(OutEntry("work:n1", entry_id, {"head": "run"}),),
        set={CURSOR + "health:n1": "6-0"},
        drop=(RELAYED + "999-0",),
    )


async def assert_refused(
    store: Store, commit: Commit, error: type[Exception], match: str = "."
) -> Exception:
    """The commit fails with that error, and nothing is different afterwards. The error."""
    before = await store.dump()
    with pytest.raises(error, match=match) as caught:
        await store.log.commit(commit)
    assert await store.dump() == before
    return caught.value


async def test_positions_are_gapless_integers(store: Store) -> None:
    """Events of commits after another get the positions 1, 2, 3 … without a gap."""
    assert await store.log.last_position() == 0
    assert await store.log.first_position() == 0
    await store.log.commit(make_commit(events=(b"a", b"b", b"c")))
    await store.log.commit(make_commit(await head_of(store.log), events=(b"d", b"e")))
    assert await store.log.events(0, 10) == [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d"), (5, b"e")]
    assert await store.log.events(2, 2) == [(3, b"c"), (4, b"d")]
    assert (await store.log.first_position(), await store.log.last_position()) == (1, 5)


@pytest.mark.parametrize(
    "wrong", [{"number": 7}, {"token": "another"}, {"position": 1}], ids=["number", "token", "position"]
)
async def test_each_part_of_the_expectation_refuses_alone(store: Store, wrong: dict[str, object]) -> None:
    """A wrong number, a wrong token or a wrong position: a conflict, and nothing is written."""
    expected = structs.replace(await begin(store), **wrong)
    await assert_refused(store, next_commit(expected), CommitConflict)


async def test_a_first_commit_expects_an_empty_grid(store: Store) -> None:
    """Whoever thinks that the log is empty is refused once it is not."""
    await begin(store)
    await assert_refused(store, next_commit(Head()), CommitConflict)


async def test_the_guard_moves_with_the_commit(store: Store) -> None:
    """Number, token, output id, cursors and relayed tokens change in the same commit as the events."""
    expected = await begin(store)
    assert await store.log.guard() == Guard(1, "token 1", "1000-0", {"health:n1": "5-0"}, {"999-0": 3})
    await store.log.commit(next_commit(expected))
    assert await store.log.guard() == Guard(2, "token 2", "1001-0", {"health:n1": "6-0"}, {})
    assert [entry_id for entry_id, _ in await store.entries("work:n1")] == ["1000-0", "1001-0"]


async def test_a_commit_without_events_is_guarded_too(store: Store) -> None:
    """Of two commits that only pass tokens on, the second on the same expectation is refused."""
    expected = await begin(store)
    piece = OutEntry("replies:brain", "1001-0", {"kind": "token"})
    await store.log.commit(make_commit(expected, outs=(piece,), token="mine"))
    assert await store.log.last_position() == expected.position
    later = OutEntry("replies:brain", "1002-0", {"kind": "token"})
    await assert_refused(store, make_commit(expected, outs=(later,), token="yours"), CommitConflict)


async def test_of_many_commits_at_once_one_wins(store: Store) -> None:
    """Twenty rivals commit on the same expectation at the same moment: one is written, whole."""
    expected = await begin(store)
    rivals = [
        make_commit(
            expected,
            events=(f"by {n}".encode(),),
            outs=(OutEntry("work:n1", f"{2000 + n}-0", {"by": n}),),
            token=f"rival {n}",
        )
        for n in range(20)
    ]
    outcomes = await asyncio.gather(*map(store.log.commit, rivals), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, CommitConflict) for outcome in outcomes) == 19
    winner = (await store.log.guard()).token.removeprefix("rival ")
    assert await store.log.events(expected.position, 10) == [(3, f"by {winner}".encode())]
    assert (await store.entries("work:n1"))[1:] == [(f"{2000 + int(winner)}-0", {b"by": winner.encode()})]


@pytest.mark.parametrize(
    "ids",
    [("1000-0",), ("999-5",), ("1001-1", "1001-1"), ("1001-1", "1001-0")],
    ids=["at the guard's", "below the guard's", "the same twice", "falling"],
)
async def test_output_ids_rise(store: Store, ids: tuple[str, ...]) -> None:
    """An output id that is not above the guard's and the one before it: refused, nothing written."""
    expected = await begin(store)
    outs = [OutEntry("replies:brain", each, {"kind": "done"}) for each in ids]
    await assert_refused(store, make_commit(expected, events=(b"x",), outs=outs), LogError, "above")


async def test_output_ids_lie_above_the_streams_top(store: Store) -> None:
    """Where a stream has entries above an output's id, the commit is refused, nothing written."""
    expected = await begin(store)
    await store.add("work:n2", {"head": "foreign"}, "5000-0")
    good = OutEntry("work:n1", "1001-0", {"head": "run"})
    bad = OutEntry("work:n2", "1002-0", {"head": "run"})
    await assert_refused(store, make_commit(expected, outs=(good, bad)), LogError, "above")


async def test_outputs_keep_their_ids_and_fields(store: Store) -> None:
    """What is committed stands in its stream under its own id, with text, numbers and bytes as given."""
    fields = {"text": "é", "number": 7, "bytes": bytes(range(256))}
    outs = (OutEntry("replies:brain", "12-3", fields), OutEntry("work:n1", "12-4", {"a": ""}))
    await store.log.commit(make_commit(outs=outs))
    written = {b"text": "é".encode(), b"number": b"7", b"bytes": bytes(range(256))}
    assert await store.entries("replies:brain") == [("12-3", written)]
    assert await store.entries("work:n1") == [("12-4", {b"a": b""})]


def copying(source: str, *, required: bool = True, entry_id: str = "2000-0") -> OutEntry:
    """A run that copies prompt and model from an entry of `requests:brain`."""
    return OutEntry(
        "work:n1",
        entry_id,
        {"head": "run"},
        body_stream="requests:brain",
        body_id=source,
        body_names=("model", "prompt"),
        body_required=required,
    )


async def test_bodies_are_copied_by_the_server(store: Store) -> None:
    """Only the named fields of the source come along, byte for byte."""
    prompt = bytes(range(256)) * 10
    body = {"id": "q1", "prompt": prompt, "session": "s", "model": "m"}
    source = await store.add("requests:brain", body)
    await store.log.commit(make_commit(events=(b"routed",), outs=(copying(source),)))
    assert await store.entries("work:n1") == [
        ("2000-0", {b"head": b"run", b"prompt": prompt, b"model": b"m"})
    ]


async def test_a_missing_required_body_refuses_the_commit(store: Store) -> None:
    """BodyGone names stream and entry, and nothing is written, also not the outputs before it."""
    expected = await begin(store)
    source = await store.add("requests:brain", {"prompt": "p"})
    gone = await store.add("requests:brain", {"prompt": "q"})
    await store.delete("requests:brain", gone)
    outs = (copying(source), copying(gone, entry_id="2001-0"))
    error = await assert_refused(store, make_commit(expected, events=(b"x",), outs=outs), BodyGone)
    assert isinstance(error, BodyGone)
    assert error.source[0].removeprefix(store.prefix) == "requests:brain"
    assert error.source[1] == gone


async def test_a_missing_optional_body_is_left_out(store: Store) -> None:
    """Without its source, an entry whose body is not required is written with its own fields."""
    await store.log.commit(make_commit(outs=(copying("77-0", required=False),)))
    assert await store.entries("work:n1") == [("2000-0", {b"head": b"run"})]


async def test_a_copied_field_replaces_the_entrys_own(store: Store) -> None:
    """A field that is both given and copied stands there once, with the source's value."""
    source = await store.add("results:n1", {"message": "the node's own words", "head": "failed"})
    out = OutEntry(
        "replies:brain",
        "2000-0",
        {"kind": "error", "message": "in general", "code": "refused"},
        body_stream="results:n1",
        body_id=source,
        body_names=("message",),
    )
    await store.log.commit(make_commit(outs=(out,)))
    [(_, fields)] = await store.entries("replies:brain")
    assert fields == {b"kind": b"error", b"message": b"the node's own words", b"code": b"refused"}
    assert await count_fields(store, "replies:brain") == 3


async def count_fields(store: Store, stream: str) -> int:
    """How many fields its only entry has, repeated ones counted."""
    if not isinstance(store, ServerStore):
        return len((await store.entries(stream))[0][1])
    script = "return #redis.call('XRANGE', KEYS[1], '-', '+')[1][2]"
    return int(await store.redis.eval(script, 1, store.prefix + stream)) // 2


async def test_a_body_of_a_megabyte_is_copied_whole(store: Store) -> None:
    """A prompt of 1 MB arrives as it was written."""
    prompt = b"\x00\xffab" * 250_000
    source = await store.add("requests:brain", {"prompt": prompt})
    await store.log.commit(make_commit(outs=(copying(source),)))
    [(_, fields)] = await store.entries("work:n1")
    assert fields[b"prompt"] == prompt


async def test_thousands_of_events_fit_one_commit(store: Store) -> None:
    """Five thousand events with an entry each are one commit."""
    events = [f"event {n}".encode() for n in range(5000)]
    outs = [OutEntry("work:n1", f"{1000 + n}-0", {"n": n}) for n in range(5000)]
    await store.log.commit(make_commit(events=events, outs=outs))
    assert [raw for _, raw in await store.log.events(0, 6000)] == events
    assert len(await store.entries("work:n1")) == 5000


async def test_an_entry_with_too_many_fields_refuses_the_commit(store: Store) -> None:
    """An entry with more fields than a script can pass on is refused before any write."""
    expected = await begin(store)
    huge = OutEntry("work:n1", "2001-0", {f"field {n}": n for n in range(5000)})
    commit = make_commit(expected, events=(b"x",), outs=(copying("1-0", required=False), huge))
    await assert_refused(store, commit, LogError, "too many")


@pytest.mark.parametrize("wrong", ["guard", "log", "work:n1", "requests:brain"])
async def test_a_key_of_the_wrong_type_refuses_the_commit(server_store: ServerStore, wrong: str) -> None:
    """Whichever key is not what it should be: refused by name, and nothing is written."""
    await server_store.redis.set(server_store.prefix + wrong, "a string")
    outs = (OutEntry("replies:brain", "1000-0", {"kind": "done"}), copying("1-0", required=False))
    commit = make_commit(events=(b"x",), outs=outs, set={CURSOR + "health:n1": "6-0"})
    error = await assert_refused(server_store, commit, LogError, "is not a")
    assert server_store.prefix + wrong in str(error)


async def test_a_forgotten_script_is_loaded_again(server_store: ServerStore) -> None:
    """After SCRIPT FLUSH, as after a restart of the server, the next commit is written once."""
    expected = await begin(server_store)
    await server_store.redis.script_flush()
    await server_store.log.commit(next_commit(expected))
    assert await server_store.log.events(2, 10) == [(3, b"three")]


BINARIES = [
    pytest.param(None, id="valkey"),
    pytest.param(REDIS_SERVER, id="redis", marks=NEEDS_REDIS),
]


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_full_server_refuses_before_any_write(tmp_path: Path, binary: str | None) -> None:
    """Out of memory, a commit is refused whole; once there is room, the same commit is written."""
    with EmbeddedServer(tmp_path, binary=Path(binary) if binary else None) as server:
        redis = connect(server.url)
        store = ServerStore("own", redis, "t:")
        expected = await begin(store)
        await store.redis.config_set("maxmemory", "100kb")
        await assert_refused(store, next_commit(expected), ResponseError, "maxmemory")
        await store.redis.config_set("maxmemory", "0")
        await store.log.commit(next_commit(expected))
        assert await store.log.last_position() == 3
        await redis.aclose()


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
    assert server_ms >= work_order(health[-1])[0]


async def test_a_read_of_nothing_gives_the_servers_time(store: Store) -> None:
    """Nothing above the cursors: no entries, but a time, with and without blocking."""
    last = await store.add("health:n1", {"n": 1})
    for block_ms in (0, 20):
        server_ms, found = await store.log.read({"health:n1": last, "health:n2": "0-0"}, 10, block_ms)
        assert found == []
        assert server_ms >= work_order(last)[0]


async def test_a_blocking_read_ends_with_the_entry(store: Store) -> None:
    """A reader that waits is woken by the first entry of any of its streams."""
    before = await store.blocked()
    reading = asyncio.create_task(store.log.read({"health:n1": "0-0", "health:n2": "0-0"}, 10, 60_000))

    async def waits() -> bool:
        return await store.blocked() > before

    await eventually(waits, "the reader waits")
    assert not reading.done()
    added = await store.add("health:n2", {"n": 1})
    _, found = await asyncio.wait_for(reading, 5)
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
    _, found = await asyncio.wait_for(reading, 5)
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
        await assert_refused(store, make_commit(Head(position=position), events=(b"y",)), LogError)


async def test_the_two_newest_snapshots_are_kept(store: Store) -> None:
    """Snapshots come back whole, newest first, two of them."""
    taken = [Snapshot(n, f"digest {n}", bytes(range(256)) * n) for n in (10, 20, 30)]
    assert await store.log.snapshots() == []
    for snapshot in taken:
        await store.log.save_snapshot(snapshot)
    assert await store.log.snapshots() == [taken[2], taken[1]]


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


async def test_tops_outlive_their_entries(store: Store) -> None:
    """The last id that a stream gave stays known when its entry is deleted; no stream: 0-0."""
    await store.add("health:n1", {"n": 1}, "10-0")
    last = await store.add("health:n1", {"n": 2}, "11-2")
    await store.delete("health:n1", last)
    assert await store.log.tops(["health:n1", "health:n2"]) == {"health:n1": "11-2", "health:n2": "0-0"}


async def test_the_top_of_something_else_is_an_error(server_store: ServerStore) -> None:
    """A key that is no stream is named."""
    await server_store.redis.set(server_store.prefix + "health:n1", "a string")
    with pytest.raises(LogError, match="health:n1"):
        await server_store.log.tops(["health:n1"])


async def test_a_group_is_made_once(server_store: ServerStore) -> None:
    """Making the agent's consumer group again changes nothing, and it begins at the stream's beginning."""
    await server_store.add("work:n1", {"head": "run"})
    for _ in range(2):
        await server_store.log.make_group("work:n1")
    [group] = await server_store.redis.xinfo_groups(server_store.prefix + "work:n1")
    assert group["last-delivered-id"] == b"0-0"
