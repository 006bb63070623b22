"""Commits to begin with, and the proof that a refused one wrote nothing."""

from __future__ import annotations

import pytest

from orion_streams.model.commit import CURSOR, RELAYED, Commit, Expected, OutEntry
from tests.helpers import Store, expected_next, make_commit


async def begin(store: Store) -> Expected:
    """A first commit with a little of everything; what the next one has to expect."""
    first = make_commit(
        events=(b"one", b"two"),
        outs=(OutEntry("work:n1", "1000-0", {"head": "run"}),),
        set={CURSOR + "health:n1": "5-0", RELAYED + "999-0": "3"},
    )
    await store.log.commit(first)
    return await expected_next(store.log)


def next_commit(expected: Expected, entry_id: str = "1001-0") -> Commit:
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
