"""What becomes of the work of a node whose agent leaves, on a log in memory, on Valkey and on Redis."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.gateway.view_models import node_rows
from orion_streams.model import events as ev
from orion_streams.model.vocabulary import Filter
from tests.eventlog.driving import MASTER, WORKER, dispatch, running
from tests.helpers import Agent, Store, ask, assert_consistent, kinds, replies, settle


@pytest.fixture
def master(store: Store) -> Agent:
    """The agent of another node, which has the model, too."""
    return Agent(store, MASTER)


@pytest.fixture
async def router(store: Store, config: Config, agent: Agent, master: Agent) -> Router:
    """A router that has heard of both."""
    return await running(store, config, agent, master)


def state_of(router: Router, node: str) -> str:
    """How `orion nodes` shows a node."""
    return next(row.state for row in node_rows(router.state.grid) if row.node == node)


def given_up(events: Iterable[ev.AnyEvent]) -> list[str]:
    """Why attempts were abandoned."""
    return [each.reason for each in events if isinstance(each, ev.AttemptAbandoned)]


async def test_what_is_handed_back_runs_elsewhere_at_once(
    store: Store, agent: Agent, master: Agent, router: Router
) -> None:
    """In the next commit, without a pause, also where health does not say yet that the node leaves; it does
    not count against the node."""
    run = await dispatch(store, router, agent, "q1")
    await agent.fail(run, "agent_leaving", "ours")
    await settle(router)
    assert state_of(router, WORKER) == "leaving"
    [again] = await master.read_work()
    assert (again.request, again.attempt) == ("brain/q1", 2)
    assert router.state.grid.nodes[WORKER].suspects == ()
    await master.complete(again)
    await settle(router)
    assert await kinds(store, "q1") == ["restarted", "done"]
    assert given_up(await assert_consistent(store)) == []


async def test_handing_back_uses_up_no_attempt(
    store: Store, agent: Agent, master: Agent, router: Router
) -> None:
    """Work that is handed back more often than it may be tried is still tried."""
    run, holder, other = await dispatch(store, router, agent, "q1"), agent, master
    for _ in range(router.state.grid.policy.max_attempts + 1):
        await holder.fail(run, "agent_leaving", "ours")
        await settle(router)
        [run] = await other.read_work()
        holder.boot += " and another"
        await holder.beat()
        holder, other = other, holder
    await holder.complete(run)
    await settle(router)
    assert (await kinds(store, "q1"))[-1] == "done"


async def test_a_leaving_node_gets_nothing_more_and_what_it_runs_goes_on(
    store: Store, agent: Agent, master: Agent, router: Router
) -> None:
    """Its own tier's next request goes elsewhere; the answer of what ran counts."""
    run = await dispatch(store, router, agent, "q1")
    await agent.beat(leaving=True)
    await ask(store, "q2", tier="2")
    await settle(router)
    assert await agent.read_work() == []
    [elsewhere] = await master.read_work()
    assert elsewhere.request == "brain/q2"
    [routed] = [
        each
        for each in await assert_consistent(store)
        if isinstance(each, ev.RequestRouted) and each.request == "brain/q2"
    ]
    assert Filter.LEAVING in [each.filter for each in routed.verdicts]
    assert state_of(router, WORKER) == "leaving"
    await agent.complete(run)
    await agent.beat(leaving=True, goodbye=True)
    await settle(router)
    assert (await replies(store))[-1]["node"] == WORKER
    assert state_of(router, WORKER) == "left"
    assert given_up(await assert_consistent(store)) == []


@pytest.mark.parametrize("goodbye", [True, False])
async def test_what_the_agent_never_read_is_moved_at_its_goodbye(
    store: Store, agent: Agent, master: Agent, router: Router, goodbye: bool
) -> None:
    """At once and with a cancel, so that the next boot does not run it. Without the goodbye it stays where
    it is: only silence would move it."""
    await ask(store, "q1", tier="2")
    await settle(router)
    await agent.beat(leaving=True, goodbye=goodbye)
    await settle(router)
    moved = await master.read_work()
    assert [each.request for each in moved] == ["brain/q1"] * goodbye
    assert given_up(await assert_consistent(store)) == ["left"] * goodbye
    if moved:
        await master.complete(moved[0])
        agent.boot = "the next boot"
        await agent.read_work()
        assert agent.runs == {}
        await settle(router)
        assert router.state.grid.nodes[WORKER].assignments == {}
        assert await kinds(store, "q1") == ["restarted", "done"]


async def test_an_answer_that_is_on_its_way_is_waited_for(
    store: Store, config: Config, agent: Agent, master: Agent
) -> None:
    """A goodbye may be taken before the last results: what was read has its end among them."""
    one_by_one = structs.replace(config, limits=structs.replace(config.limits, batch_entries=1))
    router = await running(store, one_by_one, agent, master)
    run = await dispatch(store, router, agent, "q1")
    await agent.say(run, "started")
    await agent.complete(run)
    await agent.beat(leaving=True, goodbye=True)
    await settle(router)
    events = await assert_consistent(store)
    said = [each for each in events if isinstance(each, ev.NodeSampled) and each.goodbye]
    assert [each.settled for each in said] == [False]
    assert await kinds(store, "q1") == ["done"]
    assert given_up(events) == []


async def test_what_was_read_and_has_no_result_is_gone_at_the_goodbye(
    store: Store, agent: Agent, master: Agent, router: Router
) -> None:
    """One entry tells as much as `gone_samples` that would follow."""
    await dispatch(store, router, agent, "q1")
    await agent.beat(leaving=True, goodbye=True, in_hand=())
    await settle(router)
    assert [each.request for each in await master.read_work()] == ["brain/q1"]
    assert given_up(await assert_consistent(store)) == ["gone"]
    assert router.state.grid.nodes[WORKER].assignments == {}


async def test_the_next_boot_takes_work_again(store: Store, agent: Agent, router: Router) -> None:
    """A late entry of the one that left changes nothing; the first of the next boot does."""
    await agent.beat(leaving=True, goodbye=True)
    await agent.beat()
    await settle(router)
    assert state_of(router, WORKER) == "left"
    agent.boot = "the next boot"
    await agent.beat()
    await settle(router)
    assert state_of(router, WORKER) == "available"
    await dispatch(store, router, agent, "q1")
