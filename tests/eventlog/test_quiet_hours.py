"""The router tells the log which local time quiet hours go by: in memory, on Valkey and on Redis."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from orion_streams.agents.local_time import local_offset_s
from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.gateway.view_models import node_rows
from orion_streams.model import events as ev
from tests.eventlog.driving import WORKER
from tests.helpers import Agent, Store, ask, assert_consistent, history, kinds, settle

BERLIN_S, SUMMER_S = 3_600, 7_200


def with_quiet(config: Config, quiet: str) -> Config:
    """The configuration with quiet hours of the worker."""
    nodes = {**config.nodes, WORKER: replace(config.nodes[WORKER], quiet=quiet)}
    return replace(config, nodes=nodes)


def offsets(events: list[ev.AnyEvent]) -> list[int]:
    """What the log was told."""
    return [each.offset_s for each in events if isinstance(each, ev.ZoneChanged)]


async def test_it_is_told_at_the_start_and_on_change(store: Store, config: Config, agent: Agent) -> None:
    """Once each: a router that starts again in the same zone has nothing to say, when summer time begins it
    says so by itself."""
    quiet, now = with_quiet(config, "22:00-07:00"), [BERLIN_S]
    await agent.beat()
    for _ in range(2):
        router = Router(store.log, quiet, offset_s=lambda _: now[0])
        await router.start()
        await agent.beat()
        await settle(router)
    assert offsets(await history(store.log)) == [BERLIN_S]
    now[0] = SUMMER_S
    await agent.beat()
    await settle(router)
    assert offsets(await history(store.log)) == [BERLIN_S, SUMMER_S]
    assert router.state.grid.zone_s == SUMMER_S
    await assert_consistent(store)


async def test_who_has_no_quiet_hours_is_told_nothing(store: Store, config: Config, agent: Agent) -> None:
    """Whatever the zone; the log of a house without them stays as it was."""
    await agent.beat()
    router = Router(store.log, config, offset_s=lambda _: BERLIN_S)
    await router.start()
    await agent.beat()
    await settle(router)
    assert offsets(await history(store.log)) == []


async def test_quiet_hours_go_by_the_offset(store: Store, config: Config, agent: Agent) -> None:
    """In a zone where it is night the node takes nothing; with another offset the same request is sent."""
    await agent.beat()
    now_ms = await server_ms(store)
    minute = now_ms // 60_000 % 1_440
    shift_s = (23 * 60 - minute) * 60  # local time is 23:00 and some seconds
    offset = [shift_s]
    router = Router(store.log, with_quiet(config, "22:00-07:00"), offset_s=lambda _: offset[0])
    await router.start()
    await ask(store, "q1")
    await settle(router)
    assert next(row.state for row in node_rows(router.state.grid) if row.node == WORKER) == "quiet"
    assert await agent.read_work() == []
    offset[0] = shift_s - 12 * 3_600
    await agent.beat()
    await settle(router)
    [run] = await agent.read_work()
    await agent.complete(run)
    await settle(router)
    assert await kinds(store, "q1") == ["done"]
    await assert_consistent(store)


async def server_ms(store: Store) -> int:
    """The server's time."""
    now_ms, _ = await store.log.read({"log": "0-0"}, 1, 0)
    return now_ms


def test_the_offset_is_that_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of now: in winter and in summer, by the rules of the machine's zone, and of another one once it
    has changed."""
    winter_ms, summer_ms = 1_768_000_000_000, 1_784_000_000_000
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        assert (local_offset_s(winter_ms), local_offset_s(summer_ms)) == (BERLIN_S, SUMMER_S)
        changed.setenv("TZ", "UTC0")
        assert local_offset_s(summer_ms) == 0
    time.tzset()
