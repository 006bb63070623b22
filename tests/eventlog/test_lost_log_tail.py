"""A server that lost its tail: log, guard and streams end at one earlier moment. What was lost is said, and
the grid goes on from there."""

from __future__ import annotations

import pytest
from msgspec import structs

from orion_streams.agents import input_reader
from orion_streams.agents import router as router_module
from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import catch_up, load
from orion_streams.eventlog.port import Log
from orion_streams.model.commit import Snapshot
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.eventlog.driving import WORKER, another, dispatch, running
from tests.helpers import Agent, Run, Store, assert_consistent, dispatched, folded, kinds, settle

LATER_MS = 60_000


async def answered(store: Store, router: Router, agent: Agent, run: Run) -> None:
    """The run's end, taken."""
    await agent.complete(run)
    await settle(router)


@pytest.mark.parametrize("cut", [True, False])
async def test_what_was_lost_is_said_and_made_again(
    store: Store, agent: Agent, router: Router, caplog: pytest.LogCaptureFixture, cut: bool
) -> None:
    """An answer that was committed is lost: the router says from where to where, takes the result that its
    agent writes again, and there is one end. With a cut it notices at once, without one at its commit."""
    run = await dispatch(store, router, agent, "q1")
    before, position = await store.dump(), await store.log.last_position()
    await answered(store, router, agent, run)
    committed = router.state.grid.position
    await store.restore(before)
    if cut:
        await router.start()
    else:
        store.skip(50)
    await answered(store, router, agent, run)
    line = f"the server lost its tail: {store.prefix}log ends at {position} (commit "
    [said] = [each for each in caplog.messages if "lost its tail" in each]
    assert said.startswith(line)
    assert f"this router had committed {committed} (commit " in said
    assert await kinds(store, "q1") == ["done"]
    await dispatch(store, router, agent, "q2")
    await assert_consistent(store)


async def test_a_lost_tail_is_no_deletion(
    store: Store, agent: Agent, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    """What was lost is said once, by the log's own line: not again of each stream that is shorter now. A
    stream that is deleted after that is said."""
    await settle(router)
    before = await store.dump()
    await answered(store, router, agent, await dispatch(store, router, agent, "q1"))
    await router.look_for_losses()
    await store.restore(before)
    await router.start()
    await router.look_for_losses()
    assert "lost its tail: " in caplog.text
    assert "was deleted" not in caplog.text
    await store.drop(f"health:{WORKER}")
    await router.look_for_losses()
    assert "was deleted" in caplog.text


async def test_a_tail_that_is_lost_while_the_log_is_read_is_not_in_the_grid(
    store: Store, agent: Agent, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost after the last entry was read, or between its end and its entries: the grid is that of the log
    as it is now, and the router that reads it takes the loss for one."""
    before = await store.dump()
    await dispatch(store, router, agent, "q1")
    after, beyond = await store.dump(), await load(store.log)
    await store.restore(before)
    last = await store.log.last_position()
    assert (await catch_up(store.log, beyond)).grid.position == last < router.state.grid.position

    await store.restore(after)
    log_class, first_read = type(store.log), type(store.log).snapshot_before

    async def lose(log: Log, position: int) -> Snapshot | None:
        monkeypatch.setattr(log_class, "snapshot_before", first_read)
        await store.restore(before)
        return await first_read(log, position)

    monkeypatch.setattr(log_class, "snapshot_before", lose)
    assert (await load(store.log)).grid.position == last

    await store.restore(after)

    async def read_then_lose(read_store: Log, until: int | None = None) -> LoggedGrid:
        state = await load(read_store, until)
        await store.restore(before)
        return state

    monkeypatch.setattr(router_module, "load", read_then_lose)
    assert not await router.recover()
    assert router.state.grid.position == last


async def test_lost_tokens_are_said_too(
    store: Store, agent: Agent, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that only passed tokens on leaves no event: its number alone shows that it is gone."""
    run = await dispatch(store, router, agent, "q1")
    before = await store.dump()
    await agent.say(run, "tokens", b"a piece", seq=1)
    await router.cycle(0)
    assert await store.log.last_position() == router.state.grid.position
    number = router.guard.number
    await store.restore(before)
    await router.start()
    assert f"this router had committed {router.state.grid.position} (commit {number})" in caplog.text
    await answered(store, router, agent, run)
    await assert_consistent(store)


async def test_nothing_is_said_where_nothing_was_lost(
    store: Store, config: Config, agent: Agent, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    """A router that begins again, or that another one overtook, has lost nothing."""
    run = await dispatch(store, router, agent, "q1")
    await router.start()
    other = await another(store, config)
    await answered(store, other, agent, run)
    await agent.beat()
    await settle(router)
    assert "lost its tail" not in caplog.text
    await assert_consistent(store)


async def test_a_tail_that_others_wrote_anew_is_said(
    store: Store, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Where another router went on from the shorter log, and further, the running hash shows it."""
    agent = Agent(store, WORKER)
    sleeper = await running(store, config, agent)
    before = await store.dump()
    await agent.beat()
    await settle(sleeper)
    await store.restore(before)
    other = await another(store, config)
    await dispatch(store, other, agent, "q1")
    assert await store.log.last_position() > sleeper.state.grid.position
    await sleeper.start()
    assert f"{store.prefix}log was written anew by others" in caplog.text
    assert encode_grid(sleeper.state.grid) == encode_grid(other.state.grid)
    await assert_consistent(store)


async def test_nothing_left_is_no_lost_tail(store: Store, config: Config) -> None:
    """Everything deleted under a running router: it says so and ends, instead of going on from nothing."""
    before = await store.dump()
    router = await running(store, config, Agent(store, WORKER))
    await settle(router)
    await store.restore(before)
    with pytest.raises(LogError, match="what was deleted is lost"):
        await router.start()


@pytest.mark.parametrize("remembers", [True, False])
async def test_ids_go_on_above_those_that_were_lost(
    store: Store, config: Config, agent: Agent, router: Router, remembers: bool
) -> None:
    """The other server's clock is a minute behind: the next work id lies above the lost ones all the same,
    so that no fence comes back. A router that knows nothing of before (the control) gives a lower one."""
    before = await store.dump()
    store.skip(LATER_MS)
    for _ in range(2):  # what is read with a clock that jumped may be older
        await agent.beat()
        await settle(router)
    lost = await dispatch(store, router, agent, "q1")
    await store.restore(before)
    store.skip(-LATER_MS)
    if not remembers:
        router = Router(store.another(), config)
    await router.start()
    await router.start()  # a cut before its first commit
    fresh = Agent(store, WORKER)
    given = await dispatch(store, router, fresh, "q2")
    assert (parse_stream_id(given.work_id) > parse_stream_id(lost.work_id)) == remembers
    await assert_consistent(store)


@pytest.mark.parametrize("seen", [True, False])
async def test_results_that_were_lost_keep_no_attempt(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """An agent says that it wrote results which the server lost, and no longer has the run: it is given up
    as soon as the stream holds nothing more. Without that look (the control) it is waited for."""
    if not seen:
        monkeypatch.setattr(input_reader, "drained", lambda *_: frozenset())
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    await dispatch(store, router, agent, "q1")
    agent.runs.clear()
    agent.results_written = "99999999999999-0"
    for _ in range(config.policy.gone_samples):
        await agent.beat()
        await settle(router)
    assert len(await dispatched(store)) == (2 if seen else 1)
    await assert_consistent(store)


async def test_results_that_wait_are_not_lost(store: Store, config: Config) -> None:
    """More results than one read takes are in the stream, before the end of a run: it is not given up."""
    few = structs.replace(config, limits=structs.replace(config.limits, batch_entries=2))
    agent = Agent(store, WORKER)
    router = await running(store, few, agent)
    run = await dispatch(store, router, agent, "q1")
    for seq in range(1, 21):
        await agent.say(run, "tokens", b"piece", seq=seq)
    await agent.complete(run)
    for _ in range(config.policy.gone_samples):
        await agent.beat()
    await settle(router)
    assert (await kinds(store, "q1"))[-1] == "done"
    assert len(await dispatched(store)) == 1


async def test_a_snapshot_of_a_lost_tail_is_passed_over(store: Store, agent: Agent, router: Router) -> None:
    """One that was verified on the old server and kept on the new one does not fit its log: the grid is
    folded without it."""
    ends_at = router.state.grid.position
    await store.log.save_snapshot(Snapshot(ends_at, "f" * 32, encode_grid(Grid(position=ends_at))))
    await dispatch(store, router, agent, "q1")
    loaded, expected = await load(store.log), await folded(store.log)
    assert isinstance(loaded, LoggedGrid)
    assert (encode_grid(loaded.grid), loaded.digest) == (encode_grid(expected.grid), expected.digest)


@pytest.mark.parametrize("notices", [True, False])
async def test_rules_that_were_lost_are_proposed_again(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch, notices: bool
) -> None:
    """The lost tail held new rules: the router that had proposed them begins as at the start, and they hold
    again. One that only folds what there is (the control) goes on by the old ones."""
    if not notices:
        monkeypatch.setattr(Router, "fold_again", Router.recover)
    agent = Agent(store, WORKER)
    await running(store, config, agent)
    before = await store.dump()
    router = await running(store, structs.replace(config, revision=config.revision + 1), agent)
    await store.restore(before)
    store.skip(50)
    await agent.beat()
    await settle(router)
    await agent.beat()
    await settle(router)
    assert router.state.grid.revision == config.revision + (1 if notices else 0)
    await assert_consistent(store)
