"""Snapshots and trimming: bounded streams, and nothing goes that anybody still needs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents import retention
from orion_streams.agents.retention import GRACE_MS
from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import fold_raw, load, save_verified, take_snapshot
from orion_streams.model.commit import Snapshot
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.conftest import MemoryStore
from tests.eventlog.driving import another, running
from tests.helpers import Agent, Store, ask, folded, kinds, replies, settle, snapshots

WORKER = "orion-worker"


def keeping(config: Config, **limits: int | str) -> Config:
    """The configuration with other [retention] limits."""
    return structs.replace(config, retention=structs.replace(config.retention, **limits))


async def work_for_a_while(store: Store, router: Router, agent: Agent, rounds: int) -> None:
    """Beats and answered requests, with the router keeping house after each."""
    for _ in range(rounds):
        store.skip(1000)
        await answered_request(store, router, agent)
        await router.retention.keep(router.state, router.guard)
        await router.retention.close()


async def answered_request(store: Store, router: Router, agent: Agent) -> None:
    """A beat, and a request to its end."""
    await agent.beat()
    await ask(store, f"q{agent.beats}")
    await settle(router)
    for run in await agent.read_work():
        await agent.complete(run)
    await settle(router)


async def test_a_snapshot_equals_the_whole_log(store: Store, config: Config) -> None:
    """The log goes below the older of two snapshots, and loading from one gives what the whole log gave."""
    small = keeping(config, snapshot_events=150, log_keep_ms=1)
    agent, whole = Agent(store, WORKER), LoggedGrid(Grid())
    router = await running(store, small)
    while await store.log.first_position() < 2:
        await work_for_a_while(store, router, agent, 5)
        fold_raw(whole, await store.log.events(whole.grid.position, 100_000))
    kept = await snapshots(store.log)
    assert len(kept) == 2
    assert kept[0].position - kept[1].position >= 150
    assert await store.log.first_position() <= kept[1].position + 1
    for state in (await load(store.another()), router.state):
        assert encode_grid(state.grid) == encode_grid(whole.grid)
        assert state.digest == whole.digest
    for snapshot in kept:
        at = await load(store.log, snapshot.position)
        assert encode_grid(at.grid) == snapshot.grid
    restarted = await another(store, small)
    assert encode_grid(restarted.state.grid) == encode_grid(whole.grid)


async def test_any_moment_of_what_is_left_can_be_looked_at(store: Store, config: Config) -> None:
    """The log is trimmed to a snapshot, and all newer ones stay: it folds to each position that it has."""
    small = keeping(config, snapshot_events=10, log_keep_ms=9_000)
    agent, router = Agent(store, WORKER), Router(store.log, small)
    await router.start()
    while await store.log.first_position() < 2:
        store.skip(100)
        await work_for_a_while(store, router, agent, 1)
    kept = await snapshots(store.log)
    assert len(kept) > 2
    for position in range(kept[-1].position, await store.log.last_position() + 1):
        assert (await load(store.log, position)).grid.position == position


async def test_a_wrong_snapshot_is_not_kept(store: Store, config: Config) -> None:
    """A snapshot that the log does not give is refused, by its grid and by its running hash."""
    router = await running(store, config)
    await Agent(store, WORKER).beat()
    await settle(router)
    state = router.state
    good = take_snapshot(state)
    other_grid = structs.replace(state.grid, at_ms=state.grid.at_ms + 1)
    for wrong in (
        structs.replace(good, grid=encode_grid(other_grid)),
        structs.replace(good, digest="00" * 16),
    ):
        with pytest.raises(LogError, match="not what the log before it gives"):
            await save_verified(store.log, wrong)
    assert await snapshots(store.log) == []
    await save_verified(store.log, good)
    assert await snapshots(store.log) == [good]


async def test_a_log_that_no_snapshot_reaches_is_refused(store: Store, config: Config) -> None:
    """Where the log's beginning is gone and no snapshot covers it, loading says where it begins."""
    router = await running(store, config)
    await Agent(store, WORKER).beat()
    await router.cycle(0)
    for position in (1, 2):
        await store.delete("log", f"{position}-0")
    with pytest.raises(LogError, match="begins at position 3"):
        await load(store.another())


async def test_open_requests_keep_their_entries(store: Store, config: Config) -> None:
    """Requests are trimmed below the oldest open one only, so that its body can be copied again."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    waiting = await ask(store, "waiting", model="nobody-known:1b")
    for n in range(120):
        await store.add("requests:brain", {"id": f"bad {n}"})
    await settle(router)
    assert list(router.state.grid.open) == ["brain/waiting"]
    await router.retention.keep(router.state, router.guard)
    assert (await store.log.oldest_ids("requests:brain", 1)) == [waiting]
    await store.add("requests:brain", {"cancel": "waiting"})
    await settle(router)
    await router.retention.keep(router.state, router.guard)
    left = await store.log.oldest_ids("requests:brain", 300)
    assert waiting not in left
    assert len(left) < 90
    assert router.guard.cursors["requests:brain"] in left


async def test_work_is_kept_until_its_agent_is_through(store: Store, config: Config) -> None:
    """Work is trimmed below what health says was read, and never below an attempt in hand."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    for n in range(120):
        await agent.beat(work_read="")
        await ask(store, f"q{n}")
        await settle(router)
        for run in await agent.read_work():
            if n != 60:
                await agent.complete(run)
            else:
                await store.add("requests:brain", {"cancel": f"q{n}"})
                await settle(router)
                await agent.read_work()
        await settle(router)
    assert len(await store.entries(f"work:{WORKER}")) == 121
    await router.retention.keep(router.state, router.guard)
    assert len(await store.entries(f"work:{WORKER}")) == 121
    await ask(store, "held")
    await settle(router)
    [held] = await agent.read_work()
    await agent.beat()
    await settle(router)
    await router.retention.keep(router.state, router.guard)
    left = [entry_id for entry_id, _ in await store.entries(f"work:{WORKER}")]
    assert held.work_id in left
    assert len(left) < 90


async def test_remembered_replies_are_kept(store: Store, config: Config) -> None:
    """Replies go only below the oldest remembered terminal reply, and only after a grace."""
    small = structs.replace(config, policy=structs.replace(config.policy, dedupe_keep=20))
    agent = Agent(store, WORKER)
    router = await running(store, small, agent)
    await work_for_a_while(store, router, agent, 120)
    assert len(await replies(store)) == 120
    store.skip(GRACE_MS)
    await work_for_a_while(store, router, agent, 25)
    left = {row["entry"] for row in await replies(store)}
    assert len(left) < 100
    remembered = {row.reply_id for row in router.state.grid.closed["brain"].values()}
    assert len(remembered) >= 20
    assert remembered <= left


async def test_over_the_limit_ids_are_forgotten_before_their_replies_go(
    store: Store, config: Config
) -> None:
    """Too many replies: the oldest ids are forgotten by an event first, then the entries go."""
    agent = Agent(store, WORKER)
    router = await running(store, keeping(config, replies_entries=30), agent)
    await work_for_a_while(store, router, agent, 150)
    left = {row["entry"] for row in await replies(store)}
    assert len(left) < 100
    remembered = {row.reply_id for row in router.state.grid.closed["brain"].values()}
    assert remembered <= left
    assert 0 < len(remembered) < 60
    assert await kinds(store, f"q{agent.beats}") == ["done"]


async def test_however_many_replies_are_too_many_they_go_in_one_round(config: Config) -> None:
    """At any rate: all beyond the limit are forgotten by the next commit, and gone by the round after."""
    store = MemoryStore()
    agent = Agent(store, WORKER)
    router = await running(store, keeping(config, replies_entries=30), agent)
    for _ in range(400):
        await answered_request(store, router, agent)
    assert len(await replies(store)) == 400
    for _ in range(2):
        await router.retention.keep(router.state, router.guard)
        await agent.beat()
        await settle(router)
    left = {row["entry"] for row in await replies(store)}
    assert 25 <= len(left) <= 30
    assert {row.reply_id for row in router.state.grid.closed["brain"].values()} <= left


async def test_every_house_keeping_leaves_what_is_needed(config: Config) -> None:
    """With exact trimming after every round, open bodies, attempts and remembered replies are there."""
    store = MemoryStore()
    small = keeping(config, snapshot_events=20, log_keep_ms=1, replies_entries=15)
    agent = Agent(store, WORKER)
    router = await running(store, small)
    for n in range(60):
        store.skip(1000)
        await agent.beat()
        await ask(store, f"q{n}")
        await settle(router)
        for run in (await agent.read_work())[: n % 3]:
            await agent.complete(run)
        if n % 4 == 0:
            for run in list(agent.runs.values()):
                await agent.fail(run)
        await settle(router)
        await router.retention.keep(router.state, router.guard)
        await router.retention.close()
        await assert_nothing_needed_is_gone(store, router)
    assert encode_grid((await load(store.log)).grid) == encode_grid(router.state.grid)
    assert await store.log.first_position() > 100


async def assert_nothing_needed_is_gone(store: Store, router: Router) -> None:
    """What the grid still points to is in its stream."""
    grid = router.state.grid
    requests = {entry_id for entry_id, _ in await store.entries("requests:brain")}
    assert {row.entry_id for row in grid.open.values()} <= requests
    answered = {row["entry"] for row in await replies(store)}
    assert {row.reply_id for row in grid.closed.get("brain", {}).values()} <= answered
    work = {entry_id for entry_id, _ in await store.entries(f"work:{WORKER}")}
    node = grid.nodes[WORKER]
    assert set(node.assignments) <= work
    unread = {each for each in node.assignments if parse_stream_id(each) > parse_stream_id(node.work_read)}
    assert unread <= work


async def test_an_untrimmed_log_folds_without_snapshots(store: Store, config: Config) -> None:
    """Snapshots change nothing: with and without them the same log gives the same bytes."""
    agent = Agent(store, WORKER)
    router = await running(store, keeping(config, snapshot_events=10))
    await work_for_a_while(store, router, agent, 8)
    assert len(await snapshots(store.log)) > 2
    assert encode_grid((await load(store.log)).grid) == encode_grid((await folded(store.log)).grid)


async def test_a_snapshot_of_a_lost_tail_is_dropped(store: Store, config: Config) -> None:
    """When the server has lost the tail that a snapshot stands for, it is not kept: no error."""
    router = await running(store, config)
    state = router.state
    ahead = Snapshot(state.grid.position + 5, "00" * 16, encode_grid(state.grid))
    await save_verified(store.log, ahead)
    assert await snapshots(store.log) == []


async def test_a_void_verification_is_waited_for(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that its cancel did not reach is waited for by `close`; its error, about what was lost, is seen
    and says nothing, and the next round goes on."""
    store, begun, end = MemoryStore(), asyncio.Event(), asyncio.Event()
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unseen.append(what))

    async def stubborn(*_: object) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await end.wait()
        await end.wait()
        raise LogError("about the lost tail")

    router = await running(store, config)
    with monkeypatch.context() as patch:
        patch.setattr(retention, "save_verified", stubborn)
        router.retention.verify(Snapshot(1, "", b""))
        await begun.wait()
        router.retention.begin_anew()
        closing = asyncio.create_task(router.retention.close())
        done, _ = await asyncio.wait({closing}, timeout=0.05)
        assert not done
        end.set()
        await closing
    await router.retention.keep(router.state, router.guard)
    assert router.retention._tasks == {}
    gc.collect()
    assert (unseen, caplog.messages) == ([], [])


async def test_a_cancelled_verification_is_no_error(store: Store, config: Config) -> None:
    """A void one that was cancelled in time ends neither `close` nor the next round."""
    router = await running(store, config)
    for close in (True, False):
        router.retention.verify(Snapshot(1, "", b""))
        router.retention.begin_anew()
        if close:
            await router.retention.close()
        else:
            await asyncio.wait(router.retention._tasks.values())
        await router.retention.keep(router.state, router.guard)
    assert router.retention._tasks == {}


async def test_a_log_may_be_trimmed_while_it_is_read(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that loads while another one keeps a snapshot and trims the log loads once more."""
    router = await running(store, config)
    await Agent(store, WORKER).beat()
    await settle(router)
    state, reader = router.state, store.another()
    await save_verified(store.log, take_snapshot(state))
    read, early = reader.snapshot_before, [True]

    async def before(position: int) -> Snapshot | None:
        if early.pop() if early else False:
            for each in range(1, state.grid.position):
                await store.delete("log", f"{each}-0")
            return None
        return await read(position)

    monkeypatch.setattr(reader, "snapshot_before", before)
    loaded = await load(reader)
    assert encode_grid(loaded.grid) == encode_grid(state.grid)


async def test_replies_that_nobody_remembers_may_all_go(store: Store, config: Config) -> None:
    """More rejected replies than may be kept, and no remembered id: they go, and the router goes on."""
    router = await running(store, keeping(config, replies_entries=5))
    for n in range(300):
        await store.add("requests:brain", {"id": f"bad {n}"})
    await settle(router)
    for _ in range(2):
        store.skip(1000)
        await router.retention.keep(router.state, router.guard)
        await settle(router)
    assert len(await replies(store)) < 300


async def test_of_two_snapshots_the_newer_is_kept(store: Store) -> None:
    """A router that is behind does not put its older snapshot above another one's."""
    older, newer = Snapshot(5, "00" * 16, b"a"), Snapshot(9, "11" * 16, b"b")
    await store.log.save_snapshot(newer)
    await store.another().save_snapshot(older)
    assert await snapshots(store.log) == [newer]
