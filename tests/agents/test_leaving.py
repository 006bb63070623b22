"""The agent as a process that is told to end: what it runs, hands back and says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest

from orion_streams.agents.health import Health
from orion_streams.agents.sensors import SimulatedSensors
from orion_streams.protocol.agent_entries import HealthHead
from orion_streams.runtime.faust_redis import App, StreamChannel
from tests.agents.agent_bench import NODE, Bench, Process, agent_process, open_bench, running, toml

LONG_MS, SHORT_MS = 3_600_000, 1


def draining(home: Path, bench: Bench, drain_ms: int) -> Process:
    """The node's agent, with so much time to drain."""
    text = toml(bench.url, bench.prefix, bench.node.url)
    (home / "streams.toml").write_text(text.replace("[limits]\n", f"[limits]\ndrain_ms = {drain_ms}\n"))
    return agent_process(home, bench)


def is_leaving(head: HealthHead) -> bool:
    """Whether the agent says that it leaves."""
    return head.leaving


async def code_of(bench: Bench, work_id: str) -> tuple[str, str]:
    """Wait for the end of a run: its code and blame."""
    end = await bench.ended(work_id)
    return end.head.code, end.head.blame


HANDED_BACK = ("agent_leaving", "ours")


async def test_while_it_drains_what_has_not_begun_is_handed_back(bench: Bench, tmp_path: Path) -> None:
    """What waited and what came after the signal, at once; what runs goes on, and health says all of it."""
    async with draining(tmp_path, bench, LONG_MS) as agent:
        held = await bench.hanging()
        waiting = await bench.run("waiting")
        agent.signal(SIGTERM)
        assert await code_of(bench, waiting) == HANDED_BACK
        assert await code_of(bench, await bench.run("late")) == HANDED_BACK
        assert await code_of(bench, await bench.load()) == HANDED_BACK
        head = await bench.healthy(is_leaving, "health that says so")
        assert (head.in_hand, head.goodbye) == ((held,), False)
        assert await bench.ends(held) == []


async def test_what_runs_too_long_is_let_go_and_handed_back(bench: Bench, tmp_path: Path) -> None:
    """After `drain_ms`: every entry has one end and is acknowledged, and the last health entry is the
    goodbye, with nothing in hand and everything read."""
    async with draining(tmp_path, bench, SHORT_MS) as agent:
        held = await bench.hanging()
        waiting = await bench.run("waiting")
        agent.signal(SIGTERM)
        assert await agent.ended() == 0
        assert "Traceback" not in agent.log()
        assert await code_of(bench, held) == HANDED_BACK
        heads = await bench.health()
        assert [each.goodbye for each in heads].count(True) == 1
        last = heads[-1]
        assert (last.leaving, last.goodbye, last.in_hand, last.work_read) == (True, True, (), waiting)
        assert last.results_written == (await bench.results())[-1].id
        assert [each.head.work_id for each in await bench.ends()].count(waiting) == 1
        assert await bench.pending() == []


async def test_what_ends_in_time_is_answered(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """An agent ends as soon as its last run has, whole, and says goodbye."""
    async with (
        open_bench(valkey_url, prefix, decode_tokens_per_s=50.0) as bench,
        draining(tmp_path, bench, LONG_MS) as agent,
    ):
        work_id = await bench.run()
        await bench.said(work_id, "tokens")
        agent.signal(SIGTERM)
        assert await agent.ended() == 0
        [end] = await bench.ends(work_id)
        assert end.head.op == "completed"
        assert (await bench.health())[-1].goodbye


async def test_an_idle_agent_says_goodbye(bench: Bench, tmp_path: Path) -> None:
    """There is nothing to wait for, however long it might drain."""
    async with draining(tmp_path, bench, LONG_MS) as agent:
        await bench.ended(await bench.run())
        agent.signal(SIGTERM)
        assert await agent.ended() == 0
    assert (await bench.health())[-1].goodbye


async def test_an_edge_says_goodbye(bench: Bench, tmp_path: Path) -> None:
    """A node that takes no requests leaves as well."""
    async with agent_process(tmp_path, bench, "edge") as agent:
        await bench.healthy(lambda head: True, "its health", "edge")
        agent.signal(SIGTERM)
        assert await agent.ended() == 0
    assert (await bench.health("edge"))[-1].goodbye


async def test_after_the_goodbye_nothing_is_said(bench: Bench) -> None:
    """Whatever still asks for an entry, the timer for one: the goodbye is the last."""
    app, sensors = App("test"), SimulatedSensors(bench.node.url)
    try:
        channel = StreamChannel(app, redis=bench.redis, key=f"{bench.prefix}health:{NODE}")
        health = Health(channel, sensors, None, None, None)
        await asyncio.gather(health.beat(), health.beat(goodbye=True), health.beat())
        await health.beat()
    finally:
        await sensors.close()
        await app.stop()
    assert [(each.leaving, each.goodbye) for each in await bench.health()] == [(False, False), (True, True)]


@pytest.mark.parametrize("numbers", [(SIGINT,), (SIGTERM, SIGTERM), (SIGTERM, SIGINT)])
async def test_sigint_or_a_second_signal_ends_it_at_once(
    bench: Bench, tmp_path: Path, numbers: Sequence[Signals]
) -> None:
    """However long it might drain: without a goodbye, what it held stays pending, and the next start
    reports it, takes work, and no longer says that it leaves."""
    async with draining(tmp_path, bench, LONG_MS) as agent:
        held = await bench.hanging()
        for number in numbers[:-1]:
            agent.signal(number)
            await bench.healthy(is_leaving, "the beginning of the drain")
        agent.signal(numbers[-1])
        assert await agent.ended() == 0
        assert "Traceback" not in agent.log()
        assert not any(each.goodbye for each in await bench.health())
    assert await bench.ends(held) == []
    assert await bench.pending() == [held]
    async with running(bench.config):
        assert (await code_of(bench, held))[0] == "agent_restarted"
        assert (await bench.ended(await bench.run())).head.op == "completed"
        assert not (await bench.healthy(lambda head: True, "new health")).leaving
