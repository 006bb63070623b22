"""The commit's contract: the same on MemoryLog, Valkey and Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import structs
from redis.exceptions import ResponseError

from orion_streams.errors import BodyGoneError, CommitConflictError, LogError
from orion_streams.model.commit import CURSOR, Body, Expected, Guard, OutEntry
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.conftest import ServerStore
from tests.eventlog.committing import assert_refused, begin, next_commit
from tests.helpers import Store, expected_next, make_commit
from tests.needs import REDIS_SERVER


async def test_positions_are_gapless_integers(store: Store) -> None:
    """Events of commits after another get the positions 1, 2, 3 … without a gap."""
    assert await store.log.last_position() == 0
    assert await store.log.first_position() == 0
    await store.log.commit(make_commit(events=(b"a", b"b", b"c")))
    await store.log.commit(make_commit(await expected_next(store.log), events=(b"d", b"e")))
    assert await store.log.events(0, 10) == [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d"), (5, b"e")]
    assert await store.log.events(2, 2) == [(3, b"c"), (4, b"d")]
    assert (await store.log.first_position(), await store.log.last_position()) == (1, 5)


@pytest.mark.parametrize(
    "wrong", [{"number": 7}, {"token": "another"}, {"position": 1}], ids=["number", "token", "position"]
)
async def test_each_part_of_the_expectation_refuses_alone(store: Store, wrong: dict[str, object]) -> None:
    """A wrong number, a wrong token or a wrong position: a conflict, and nothing is written."""
    expected = structs.replace(await begin(store), **wrong)
    await assert_refused(store, next_commit(expected), CommitConflictError)


async def test_a_first_commit_expects_an_empty_grid(store: Store) -> None:
    """Whoever thinks that the log is empty is refused once it is not."""
    await begin(store)
    await assert_refused(store, next_commit(Expected()), CommitConflictError)


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
    await assert_refused(store, make_commit(expected, outs=(later,), token="yours"), CommitConflictError)


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
    assert sum(isinstance(outcome, CommitConflictError) for outcome in outcomes) == 19
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
        Body(stream="requests:brain", entry_id=source, names=("model", "prompt"), required=required),
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
    """BodyGoneError names stream and entry, and nothing is written, also not the outputs before it."""
    expected = await begin(store)
    source = await store.add("requests:brain", {"prompt": "p"})
    gone = await store.add("requests:brain", {"prompt": "q"})
    await store.delete("requests:brain", gone)
    outs = (copying(source), copying(gone, entry_id="2001-0"))
    error = await assert_refused(store, make_commit(expected, events=(b"x",), outs=outs), BodyGoneError)
    assert isinstance(error, BodyGoneError)
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
        Body(stream="results:n1", entry_id=source, names=("message",), required=False),
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
    pytest.param(REDIS_SERVER, id="redis", marks=pytest.mark.everything),
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
