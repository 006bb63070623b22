"""What a name on the command line may mean."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.cli import find_request
from orion_streams.cli.find_request import Found, find
from orion_streams.cli.request_names import meant, shortest
from orion_streams.config import Config
from orion_streams.errors import AmbiguousError, OrionError
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import Closed, Grid
from orion_streams.model.vocabulary import RequestKind, RequestState
from orion_streams.replay.source import LiveSource
from tests.conftest import MemoryStore
from tests.helpers import make_commit

KEYS = [
    "brain/q1",
    "brain/q10",
    "chat/q10",
    "chat/abc",
    'chat/a "b"/c',
    "web/gateway@pi.1a2b.17",
    "web/x@y",
]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("q1", ["brain/q1"]),
        ("q10", ["brain/q10", "chat/q10"]),
        ("brain/q10", ["brain/q10"]),
        ("brain/q", ["brain/q1", "brain/q10"]),
        ("ab", ["chat/abc"]),
        ("chat/ab", ["chat/abc"]),
        ("hat/abc", []),
        ("bc", []),
        ("chat", []),
        ("chat/", []),
        ("", []),
        ('a "b"/c', ['chat/a "b"/c']),
        ('a "', ['chat/a "b"/c']),
        ("gateway@", ["web/gateway@pi.1a2b.17"]),
        ("1a2b.17", ["web/gateway@pi.1a2b.17"]),
        ("web/1a2b.17", ["web/gateway@pi.1a2b.17"]),
        ("chat/1a2b.17", []),
        ("1a2b.1", []),
        ("17", []),
        ("y", []),
    ],
)
def test_a_name_means_what_is_called_so_or_begins_so(asked: str, expected: list[str]) -> None:
    """A whole id or key before its beginnings, or the ending of a gateway's id; never the middle of an id,
    nor a part of a client's name."""
    assert meant(asked, KEYS) == expected


@given(st.sets(st.from_regex(r"[ab]/[ab]{1,4}", fullmatch=True), min_size=1))
def test_each_request_is_reached_by_its_key_and_by_its_shortest_unique_beginning(keys: set[str]) -> None:
    """The key means that request alone, whatever it is the beginning of."""
    for key in keys:
        assert meant(key, keys) == [key]
        for end in range(key.index("/") + 2, len(key)):
            if sum(each.startswith(key[:end]) for each in keys) == 1:
                assert meant(key[:end], keys) == [key]


def test_what_is_shown_of_an_id_means_it() -> None:
    """Of many gateways and clients, and of ids that begin alike, also among those that are not shown; a
    control: their beginnings mean several."""
    lives = ("pi.1a2b3c4d", "pi.1a2b3c4e", "x.y.9a2b3c4d")
    keys = [f"{client}/gateway@{life}.{n}" for client in "ab" for life in lives for n in (1, 11)]
    keys += [f"a/{n:08x}{'ab' * 12}" for n in range(20)] + [f"a/count-{n}" for n in range(20)]
    names = shortest(keys[::2])
    assert all(meant(shown, keys) == [key] for key, shown in names.items())
    assert len(meant("gateway@", keys)) == 12
    assert max(map(len, names.values())) < 20


def accepted(key: str) -> ev.RequestAccepted:
    """A request of that name."""
    return ev.RequestAccepted(key, "1-0", RequestKind.GENERATE, "m", 60_000, 100, 20)


async def logged(*events: ev.AnyEvent) -> LiveSource:
    """A log of these events behind one head."""
    store = MemoryStore()
    head = ev.Committed(1, 1, len(events), True, "")
    await store.log.commit(make_commit(events=[event_codec.encode(each) for each in (head, *events)]))
    return LiveSource(store.log, Config())


def remembering(*keys: str, position: int = 4) -> Grid:
    """A grid that remembers these requests, and in whose log there may be others."""
    closed: dict[str, dict[str, Closed]] = {}
    for key in keys:
        closed.setdefault(key.partition("/")[0], {})[key] = Closed(RequestState.DONE, "1-0", 1)
    return Grid(position=position, closed=closed)


OLD = tuple(map(accepted, ("brain/q1", "brain/old", "chat/other")))


@pytest.mark.parametrize(
    ("asked", "remembered", "expected"),
    [
        ("q10", ("brain/q10",), Found("brain/q10", 4)),
        ("q", ("brain/q10",), Found("brain/q10", 4)),
        ("brain/q1", ("brain/q10",), Found("brain/q1", 2)),
        ("brain/q", ("brain/q10",), Found("brain/q10", 4)),
        ("old", ("brain/q10",), Found("brain/old", 3)),
        ("ot", (), Found("chat/other", 4)),
    ],
)
async def test_what_is_remembered_comes_before_what_the_log_has(
    asked: str, remembered: tuple[str, ...], expected: Found
) -> None:
    """A shortened name is looked for among the remembered requests first; a whole key is found wherever it
    is."""
    assert await find(await logged(*OLD), remembering(*remembered), asked) == expected


async def test_a_name_of_many_lists_some_of_them() -> None:
    """Of thirty that begin alike eight are named, and that there are more."""
    log = await logged(*(accepted(f"brain/q{n:02}") for n in range(30)))
    with pytest.raises(AmbiguousError, match=r"^q is short .* (brain/q.., ){7}brain/q.. and more$"):
        await find(log, remembering(position=31), "q")
    with pytest.raises(AmbiguousError, match=r"(brain/q.., ){7}brain/q07 and more$"):
        await find(log, remembering(*(f"brain/q{n:02}" for n in range(20)), position=31), "q")


@pytest.mark.parametrize("chunk", [1, 2, 500])
async def test_the_log_is_searched_to_its_beginning(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """In pieces of whatever size: found where it is, and missed where it is not."""
    monkeypatch.setattr(find_request, "CHUNK", chunk)
    log = await logged(*OLD)
    assert await find(log, remembering(), "q1") == Found("brain/q1", 2)
    with pytest.raises(OrionError, match="the log has no request nobody between positions 1 and 4"):
        await find(log, remembering(), "nobody")


def test_what_is_read_is_what_was_written() -> None:
    """The needle of the search is in the bytes of an event, whatever letters the id has."""
    for odd in ('a "b"', "ä\\n", "tab\tend", "\N{SNOWMAN}"):
        raw: Any = event_codec.encode(accepted(f"brain/{odd}"))
        assert msgspec.json.encode(odd)[1:-1] in raw
