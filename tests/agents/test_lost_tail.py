"""The agent when its server lost its tail: what it had said is said again, and nothing runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from tests.agents.agent_bench import NODE, Bench, open_bench, running
from tests.helpers import eventually

Saved = dict[str, bytes | None]


@pytest.fixture
async def slow(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A bench whose answers take some tenths of a second."""
    async with open_bench(valkey_url, prefix, decode_tokens_per_s=50.0) as opened:
        yield opened


async def save(bench: Bench) -> Saved:
    """Copy the node's streams, as a replica has them at this moment."""
    keys = [f"{bench.prefix}{stream}:{NODE}" for stream in ("work", "results")]
    return {key: await bench.redis.dump(key) for key in keys}


async def lose_since(bench: Bench, saved: Saved) -> None:
    """Let a replica take over that knows no more: connections break."""
    async with bench.redis.pipeline(transaction=True) as at_once:
        for key, value in saved.items():
            if value is None:
                at_once.delete(key)
            else:
                at_once.restore(key, 0, value, replace=True)
        at_once.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await at_once.execute()


async def test_an_end_that_was_lost_is_written_again(slow: Bench) -> None:
    """The end of a run was acknowledged and is gone: it comes again as it was, and nothing runs anew."""
    async with running(slow.config):
        work_id = await slow.run()
        await slow.said(work_id, "tokens")
        saved = await save(slow)
        first = await slow.ended(work_id)
        await lose_since(slow, saved)
        again = (await slow.all_ends(work_id))[0]
        assert [each.head.op for each in await slow.results(work_id)].count("started") == 1
    assert (again.head, again.text) == (first.head, first.text)


async def test_an_end_that_is_not_acknowledged_yet_is_written_again(slow: Bench) -> None:
    """The acknowledgement goes along with the next read; a cut before it must not acknowledge an end that
    was lost meanwhile."""
    config = structs.replace(slow.config, redis=structs.replace(slow.config.redis, block_ms=2_000))
    async with running(config):
        work_id = await slow.run()
        await slow.said(work_id, "tokens")
        saved = await save(slow)
        await eventually(lambda: slow.ends(work_id), "the end")
        assert await slow.pending() == [work_id]
        await lose_since(slow, saved)
        assert {each.head.op for each in await slow.all_ends(work_id)} == {"completed"}


async def test_the_inventory_is_told_again_after_a_failed_entry(bench: Bench) -> None:
    """The list of models goes out on change and every minute: after a health entry that failed it goes
    along with the next one, as the last one that had it may be lost."""
    async with running(bench.config) as app:
        await bench.healthy(lambda head: head.inventory_digest and head.inventory is None, "only a digest")
        await bench.redis.config_set("min-replicas-to-write", 1)
        try:
            again = asyncio.create_task(bench.healthy(lambda head: head.inventory is not None, "the list"))
            await eventually(lambda: app.outages.tries > 2, "entries that failed")
        finally:
            await bench.redis.config_set("min-replicas-to-write", 0)
        assert (await again).inventory
