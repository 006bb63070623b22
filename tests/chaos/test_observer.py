"""The observer of the raw streams, on a real server that comes back without its tail."""

from __future__ import annotations

from typing import Any

import pytest

from orion_streams.demo.observer import Observer, Run
from orion_streams.runtime.connection import connect


@pytest.fixture
async def redis(valkey_url: str) -> Any:
    """A connection of this test."""
    opened: Any = connect(valkey_url)
    yield opened
    await opened.aclose()


def run(request: str, attempt: int = 1) -> dict[str, str]:
    """An entry that hands an attempt out."""
    return {"head": f'{{"op":"run","request":"brain/{request}","attempt":{attempt}}}'}


async def test_it_counts_what_the_streams_show(redis: Any, prefix: str) -> None:
    """Requests, ends and runs; an id that ended is no longer open."""
    observer = Observer(redis, prefix, ["brain"], ["n1"])
    for name in ("q1", "q2"):
        await redis.xadd(f"{prefix}requests:brain", {"id": name, "model": "m"})
    await redis.xadd(f"{prefix}work:n1", run("q1"))
    await redis.xadd(f"{prefix}replies:brain", {"id": "q1", "kind": "done", "node": "n1", "text": ""})
    tally = await observer.stop()
    assert (tally.requests, tally.answered, tally.lost) == (2, 1, 1)
    assert (tally.by_node, tally.dispatched) == ({"n1": 1}, {"n1": 1})
    assert observer.open() == {("brain", "q2")}


async def test_what_the_server_lost_is_forgotten(redis: Any, prefix: str) -> None:
    """After a lost tail an end that is gone does not count, and the same end made again counts once."""
    stream = f"{prefix}replies:brain"
    end = {"id": "q1", "kind": "done", "node": "n1", "text": ""}
    await redis.xadd(f"{prefix}requests:brain", {"id": "q1", "model": "m"})
    await redis.xadd(stream, {"id": "q0", "kind": "done"}, id="1-0")
    observer = Observer(redis, prefix, ["brain"], ["n1"])
    await redis.xadd(stream, end, id="9-0")
    await observer.stop()
    assert await observer.look_again() == 0
    await redis.delete(stream)
    await redis.xadd(stream, {"id": "q0", "kind": "done"}, id="1-0")
    assert await observer.look_again() == 1
    assert observer.open() == {("brain", "q1")}
    await redis.xadd(stream, end, id="5-0")
    tally = await observer.stop()
    assert (tally.answered, tally.duplicate_replies, observer.gone) == (2, 0, 1)


async def test_an_id_that_was_given_again_is_another_entry(redis: Any, prefix: str) -> None:
    """A lost tail was written anew under the same ids: what stands there counts, and counts once."""
    stream = f"{prefix}work:n1"
    observer = Observer(redis, prefix, ["brain"], ["n1"])
    for n, entry in enumerate((run("q1"), run("q2"), run("q3")), start=1):
        await redis.xadd(stream, entry, id=f"7-{n}")
    await observer.stop()
    await redis.delete(stream)
    for n, entry in enumerate((run("q1"), run("q3", 2), run("q3"), run("q4")), start=1):
        await redis.xadd(stream, entry, id=f"7-{n}")
    assert await observer.look_again() == 1
    assert (await observer.stop()).dispatched == {"n1": 4}
    seen = {(row.name[1], row.attempt) for row in observer.rows["work:n1"].values() if isinstance(row, Run)}
    assert seen == {("q1", 1), ("q3", 2), ("q3", 1), ("q4", 1)}


async def test_what_was_trimmed_is_not_lost(redis: Any, prefix: str) -> None:
    """Entries below the stream's first one were trimmed: they stay counted."""
    stream = f"{prefix}work:n1"
    observer = Observer(redis, prefix, ["brain"], ["n1"])
    for attempt in (1, 2, 3):
        await redis.xadd(stream, run("q1", attempt), id=f"{attempt}-0")
    await observer.stop()
    await redis.xtrim(stream, minid="3-0", approximate=False)
    assert await observer.look_again() == 0
    assert observer.tally().dispatched == {"n1": 3}
