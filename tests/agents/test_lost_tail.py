"""The agent when its server lost its tail: what it had said is said again, and nothing runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from orion_streams.demo.ollama import serve
from tests.agents.agent_bench import NODE, QUICK, Bench, Result, running
from tests.helpers import eventually

Saved = dict[str, bytes | None]


@pytest.fixture
async def slow(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A bench whose answers take some tenths of a second."""
    async with serve(structs.replace(QUICK, decode_tokens_per_s=50.0)) as node:
        bench = Bench(valkey_url, prefix, node)
        await bench.prepare()
        yield bench
        await bench.close()


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


async def ends(bench: Bench, work_id: str) -> list[Result]:
    """Wait for an end of a run, acknowledged. Return all its ends."""

    async def over() -> bool:
        return bool(await bench.ends(work_id)) and work_id not in await bench.pending()

    await eventually(over, f"the end of {work_id}")
    return await bench.ends(work_id)


async def begun(bench: Bench, work_id: str) -> int:
    """Count how often the stream says that it began."""
    return [each.head.op for each in await bench.results(work_id)].count("started")


async def test_an_end_that_was_lost_is_written_again(slow: Bench) -> None:
    """The end of a run was acknowledged and is gone: it comes again as it was, and nothing runs anew."""
    async with running(slow.config):
        work_id = await slow.run()
        await slow.said(work_id, "tokens")
        saved = await save(slow)
        [first] = await ends(slow, work_id)
        await lose_since(slow, saved)
        again = (await ends(slow, work_id))[0]
        assert await begun(slow, work_id) == 1
    assert (again.head, again.text) == (first.head, first.text)


async def test_a_run_that_is_delivered_twice_runs_once(slow: Bench) -> None:
    """The server forgot that it had delivered a run, which goes on: it is not begun again, and its one end
    acknowledges it."""
    work_id = await slow.run()
    saved = await save(slow)
    async with running(slow.config):
        await slow.said(work_id, "tokens")
        await lose_since(slow, saved)
        assert {each.head.op for each in await ends(slow, work_id)} == {"completed"}
        assert await begun(slow, work_id) == 0
        assert (await ends(slow, await slow.run("next")))[0].head.op == "completed"


async def test_an_end_that_is_not_acknowledged_yet_is_written_again(slow: Bench) -> None:
    """The acknowledgement goes along with the next read; a cut before it must not acknowledge an end that
    was lost meanwhile."""
    config = structs.replace(slow.config, redis=structs.replace(slow.config.redis, block_ms=2_000))
    async with running(config):
        work_id = await slow.run()
        await slow.said(work_id, "tokens")
        saved = await save(slow)

        async def written() -> bool:
            return bool(await slow.ends(work_id))

        await eventually(written, "the end")
        assert await slow.pending() == [work_id]
        await lose_since(slow, saved)
        assert {each.head.op for each in await ends(slow, work_id)} == {"completed"}


async def test_work_that_was_lost_stops_nobody(slow: Bench) -> None:
    """The server lost a run that the agent has in hand: it ends by itself, and the next one runs."""
    saved = await save(slow)
    async with running(slow.config):
        work_id = await slow.run()
        await slow.said(work_id, "tokens")
        await lose_since(slow, saved)
        following = await slow.run("next")
        assert (await ends(slow, following))[0].head.op == "completed"
        assert [each.head.op for each in await slow.ends(work_id)] == ["completed"]


async def test_the_inventory_is_told_again_after_a_cut(slow: Bench) -> None:
    """The list of models goes out on change and every minute: after a health entry that failed it goes
    along with the next one, as the last one that had it may be lost."""
    async with running(slow.config):
        await slow.healthy(lambda head: head.inventory_digest and head.inventory is None, "only a digest")
        redis = slow.redis
        await redis.config_set("min-replicas-to-write", 1)
        try:
            failed = asyncio.create_task(slow.healthy(lambda head: head.inventory is not None, "the list"))
            await refused_writes(slow)
        finally:
            await redis.config_set("min-replicas-to-write", 0)
        assert (await failed).inventory


async def refused_writes(bench: Bench) -> None:
    """Wait until the server has refused a further write."""

    async def count() -> int:
        found = (await bench.redis.info("errorstats")).get("errorstat_NOREPLICAS", {"count": 0})
        return int(found["count"])

    had = await count()

    async def more() -> bool:
        return await count() > had + 2

    await eventually(more, "a refused write")
