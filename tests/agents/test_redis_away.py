"""The agent while Redis is away, full, read-only or wrong; on a server of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents import results as results_module
from orion_streams.agents.results import ResultWriter
from orion_streams.protocol import agent_entries
from orion_streams.runtime.connection import connect
from orion_streams.runtime.faust_redis import App
from tests.agents.agent_bench import MODEL, Bench, Own, limited, running
from tests.helpers import eventually, eventually_true


async def test_results_come_whole_after_the_server_was_killed(own: Own) -> None:
    """kill -9 of the server in an answer: after its restart the results are there as they were, health
    resumes and new work is read."""
    async with running(own.bench.config):
        work_id = await own.begun()
        own.server.kill()
        await own.answered()
        own.server.start()
        assert (await own.whole(work_id)).head.op == "completed"
        await own.bench.healthy(lambda head: head.in_hand == (), "health resumes")
        assert (await own.whole(await own.bench.run("next"))).head.op == "completed"


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 9", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ],
)
async def test_a_server_that_takes_nothing_for_now_is_waited_for(
    own: Own, break_it: str, mend_it: str
) -> None:
    """Full, a read-only replica, or without its replicas: nothing is lost, and afterwards it goes on."""
    async with running(own.bench.config) as app:
        work_id = await own.begun()
        await own.bench.redis.execute_command(*break_it.split())
        await own.answered()
        assert await own.bench.ends(work_id) == []
        await own.bench.redis.execute_command(*mend_it.split())
        await own.whole(work_id)
        await own.whole(await own.bench.run("next"))
        assert app.fatal is None


async def stopped(app: App) -> str:
    """What the process would end with."""
    await eventually(lambda: app.fatal is not None, "the end of the process")
    assert app.fatal is not None
    assert app.fatal.exit_code == 78
    return str(app.fatal)


@pytest.mark.parametrize("stream", ["work", "results", "health"])
async def test_a_key_of_another_type_ends_the_process(bench: Bench, stream: str) -> None:
    """WRONGTYPE does not pass: exit code 78 and the key's name."""
    await bench.run()
    await bench.redis.set(f"{bench.prefix}{stream}:n1", "no stream")
    async with running(bench.config) as app:
        assert await stopped(app) == (
            f"{bench.prefix}{stream}:n1: Redis refuses: "
            "WRONGTYPE Operation against a key holding the wrong kind of value"
        )


@pytest.mark.parametrize("rules", ["+@all -xreadgroup", "+@all -xack", "nocommands +info"])
async def test_a_permission_that_is_missing_ends_the_process(own: Own, rules: str) -> None:
    """NOPERM does not pass either."""
    bench = own.bench
    await bench.redis.execute_command("ACL", "SETUSER", "n1", "on", ">pw", "~*", *rules.split())
    await bench.run()
    url = bench.url.replace("redis://", "redis://n1:pw@")
    config = structs.replace(bench.config, redis=structs.replace(bench.config.redis, url=url))
    async with running(config) as app:
        assert "user n1 may not run " in await stopped(app)


async def test_a_wrong_password_ends_the_process(own: Own) -> None:
    """Who is refused by the server does not wait for it to come back."""
    url = own.bench.url.replace("redis://", "redis://n1:wrong@")
    config = structs.replace(own.bench.config, redis=structs.replace(own.bench.config.redis, url=url))
    async with running(config) as app:
        assert "Redis refuses" in await stopped(app)


async def test_an_entry_whose_reply_was_lost_is_run(own: Own) -> None:
    """Delivered by the server, seen by nobody, same process: it is run, not failed."""
    bench = own.bench
    async with running(bench.config):
        await own.whole(await bench.run("before"))
        head = agent_entries.encode_head(agent_entries.WorkHead("run", "brain/lost", 1, MODEL))
        pipe = bench.redis.pipeline(transaction=True)
        fields = {"head": head, "model": MODEL, "prompt": "x"}
        pipe.xadd(f"{bench.prefix}work:n1", fields)
        pipe.xreadgroup("agent", "agent", {f"{bench.prefix}work:n1": ">"})
        lost, _ = await pipe.execute()
        await bench.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await own.whole(lost.decode())).head.op == "completed"


async def test_waiting_results_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no result can be written those who have one wait; what is held is limited."""
    monkeypatch.setattr(results_module, "MAX_WAITING", 5)
    redis: Any = connect("redis://127.0.0.1:9")
    writer = ResultWriter(redis, "k", 10)
    head = agent_entries.ResultHead("started", "brain/q", 1, "1-1")
    asked = [asyncio.create_task(writer.write(head)) for _ in range(100)]
    writing = asyncio.create_task(writer.run())
    await asyncio.wait({writing}, timeout=0.3)
    assert not writing.done()
    assert writer._queue.qsize() == 5
    for task in (*asked, writing):
        task.cancel()
    await asyncio.gather(*asked, writing, return_exceptions=True)
    await redis.aclose()


async def test_the_agent_stops_while_redis_is_away(own: Own) -> None:
    """A run whose result cannot be written does not hold up a stop."""
    async with running(limited(own.bench.config, slots=2)):
        await own.begun()
        own.server.kill()
        await own.answered()
    eventually_true(lambda: own.bench.node.machine.active == 0, "nothing runs")


async def test_a_cut_that_health_missed_brings_the_whole_inventory(bench: Bench) -> None:
    """Only the connection that reads work is cut, as when a server comes back between two health entries:
    the next entry holds the list of models again, which the server may have lost."""
    async with running(bench.config):
        await bench.healthy(lambda head: head.inventory is not None, "the first list")
        await bench.healthy(lambda head: head.inventory is None, "then the digest alone")
        reads = ("xreadgroup", "xinfo|groups")
        [reader] = [row for row in await bench.redis.client_list() if row["cmd"] in reads]
        await bench.redis.client_kill_filter(_id=reader["id"])
        await bench.healthy(lambda head: head.inventory is not None, "the list once more")
