"""What the cluster really is, through the router: runners, loads, room, heat, failing nodes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules
from orion_streams.protocol import agent_entries
from tests.eventlog.driving import EDGE, MASTER, WORKER, dispatch, running
from tests.helpers import MODEL, Agent, Run, Store, ask, assert_consistent, kinds, replies, settle

HEALTH_MS = 1_000


async def passes(store: Store, router: Router, ms: int, *agents: Agent, **readings: Any) -> None:
    """So much time, with a health entry of each agent every second."""
    for _ in range(ms // HEALTH_MS):
        store.skip(HEALTH_MS)
        for agent in agents:
            await agent.beat(**readings)
        await settle(router)


async def work_of(store: Store, node: str, op: str) -> list[tuple[str, agent_entries.WorkHead]]:
    """The entries of one kind that the node was ever sent."""
    heads = [
        (work_id, agent_entries.decode_work(fields[b"head"]))
        for work_id, fields in await store.entries(f"work:{node}")
    ]
    return [(work_id, head) for work_id, head in heads if head.op == op]


def pinned(config: Config, **rules: Any) -> Config:
    """The same house with rules for the model."""
    return structs.replace(config, models={MODEL: ModelRules(**rules)})


@pytest.mark.parametrize(
    ("rules", "asked", "expected"),
    [
        ({}, "", {"num_ctx": 4096}),
        ({}, '{"num_ctx": 2048, "num_thread": 3}', {"num_ctx": 2048}),
        ({"num_ctx": 8192, "num_thread": 2}, '{"num_ctx": 2048}', {"num_ctx": 8192, "num_thread": 2}),
    ],
)
async def test_a_run_names_its_runners_options(
    store: Store, config: Config, rules: dict[str, int], asked: str, expected: dict[str, int]
) -> None:
    """What streams.toml pins holds, else the request's context length, else the house's."""
    agent = Agent(store, WORKER)
    router = await running(store, pinned(config, **rules), agent)
    await ask(store, "q1", **({"options": asked} if asked else {}))
    await settle(router)
    [(_, head)] = await work_of(store, WORKER, "run")
    assert head.options == expected


async def test_an_idle_node_loads_what_it_should_hold(store: Store, config: Config) -> None:
    """A pinned model is loaded on its idle node, once; what came of it is an event and teaches its time."""
    agent = Agent(store, MASTER)
    router = await running(store, pinned(config, resident_on=(MASTER,)), agent)
    await passes(store, router, 11_000, agent)
    [(work_id, head)] = await work_of(store, MASTER, "load")
    assert (head.model, head.options) == (MODEL, {"num_ctx": 4096})
    assert router.state.grid.nodes[MASTER].assignments[work_id].reserve_mb > 2_000
    agent.work_read = work_id
    await agent.say(Run("", 0, work_id), "completed", load_ms=9_000, total_ms=9_000)
    there = agent_entries.ResidentModel(MODEL, f"digest of {MODEL}", 2_400, 4096)
    await passes(store, router, 20_000, agent, resident=(there,))
    grid = router.state.grid
    assert grid.speeds[MASTER, MODEL].loads == (9_000,)
    assert not grid.nodes[MASTER].assignments
    rows = await assert_consistent(store)
    assert [each.ok for each in rows if isinstance(each, ev.LoadEnded)] == [True]


async def test_a_load_that_failed_rests(store: Store, config: Config) -> None:
    """A load that fails is not ordered again before `load_again_ms`."""
    agent = Agent(store, MASTER)
    router = await running(store, pinned(config, resident_on=(MASTER,)), agent)
    await passes(store, router, 11_000, agent)
    [(work_id, _)] = await work_of(store, MASTER, "load")
    agent.work_read = work_id
    await agent.say(Run("", 0, work_id), "failed", code="load_overdue", blame="node")
    await passes(store, router, 30_000, agent)
    assert len(await work_of(store, MASTER, "load")) == 1
    await passes(store, router, config.policy.load_again_ms, agent)
    assert len(await work_of(store, MASTER, "load")) == 2


async def test_a_model_that_fits_nowhere_is_rejected_with_its_figures(store: Store, config: Config) -> None:
    """One reply, at once, which names what it needs and what there is room for; the id is not burnt."""
    agent = Agent(store, WORKER)
    agent.installed = (agent_entries.InstalledModel("huge:70b", "d", 40_000),)
    other = Agent(store, MASTER, models=())
    router = await running(store, config, agent, other)
    await ask(store, "q1", model="huge:70b")
    await settle(router)
    [reply] = await replies(store)
    assert (reply["kind"], reply["code"]) == ("rejected", "model_too_large")
    assert f"{WORKER} has room for 6708 MB and it needs 43480 MB" in reply["message"]
    assert not router.state.grid.open


async def test_an_expired_request_says_what_it_waited_for(store: Store, config: Config) -> None:
    """With every node too hot a request waits until its deadline, and its one reply says why."""
    agents = [Agent(store, WORKER), Agent(store, MASTER)]
    router = await running(store, config, *agents)
    await passes(store, router, 1_000, *agents, temp_mc=76_000)
    await ask(store, "q1", deadline_ms="5000")
    await settle(router)
    await passes(store, router, 7_000, *agents, temp_mc=76_000)
    [reply] = await replies(store)
    assert reply["kind"] == "expired"
    assert f"{MASTER}: hot" in reply["message"]
    assert f"{WORKER}: hot" in reply["message"]
    deferred = [each for each in await assert_consistent(store) if isinstance(each, ev.RequestDeferred)]
    assert {each.node: each.filter for each in deferred[0].verdicts} == {
        EDGE: "role",
        MASTER: "hot",
        WORKER: "hot",
    }


async def test_above_the_critical_mark_running_work_moves(store: Store, config: Config) -> None:
    """Strictly above `temp_critical_mc` a run is cancelled and asked again elsewhere."""
    worker, master = Agent(store, WORKER), Agent(store, MASTER)
    router = await running(store, config, worker, master)
    run = await dispatch(store, router, worker, "q1")
    await worker.say(run, "started")
    await worker.beat(temp_mc=config.policy.temp_critical_mc)
    await settle(router)
    assert await work_of(store, WORKER, "cancel") == []
    await worker.beat(temp_mc=config.policy.temp_critical_mc + 1)
    await settle(router)
    [(_, cancel)] = await work_of(store, WORKER, "cancel")
    assert cancel.work_id == run.work_id
    [again] = await master.read_work()
    assert (again.request, again.attempt) == ("brain/q1", 2)
    await worker.read_work()
    await master.complete(again)
    await settle(router)
    assert await kinds(store, "q1") == ["restarted", "done"]
    await assert_consistent(store)


async def fail_all(store: Store, router: Router, agent: Agent) -> None:
    """The agent fails whatever it is sent, until it is sent nothing more."""
    while runs := await agent.read_work():
        for run in runs:
            await agent.fail(run, code="stream_cut")
        await agent.beat()
        await settle(router)


async def test_a_failing_node_rests_and_gets_one_probe(store: Store, config: Config) -> None:
    """Three requests fail in a row: nothing more is sent; after a while one is, and its answer ends it."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    for n in range(4):
        await ask(store, f"q{n}")
        await settle(router)
        await fail_all(store, router, agent)
    sent = len(await work_of(store, WORKER, "run"))
    assert router.state.grid.nodes[WORKER].opened_ms is not None
    await passes(store, router, config.policy.breaker_open_ms - 3_000, agent)
    assert len(await work_of(store, WORKER, "run")) == sent
    await passes(store, router, 4_000, agent)
    [probe] = await agent.read_work()
    assert len(await work_of(store, WORKER, "run")) == sent + 1
    await agent.complete(probe)
    await settle(router)
    assert router.state.grid.nodes[WORKER].opened_ms is None
    assert await agent.read_work() != []
    await assert_consistent(store)


async def test_a_page_of_a_proxy_for_three_seconds_is_survived(store: Store, config: Config) -> None:
    """One node, behind something that is no Ollama: tried again after a second, two more, and then
    answered. The attempts are the node's fault, and the request was never refused."""
    worker = Agent(store, WORKER)
    router = await running(store, config, worker)
    await ask(store, "q1")
    await settle(router)
    tried_ms = []
    for second in range(8):
        for run in await worker.read_work():
            tried_ms.append(second * 1_000)
            if second < 3:
                await worker.fail(run, "not_ollama")
            else:
                await worker.complete(run)
            await settle(router)
        await passes(store, router, 1_000, worker)
    assert tried_ms == [0, 1_000, 3_000]
    assert (await kinds(store, "q1"))[-1] == "done"
    await assert_consistent(store)


async def test_while_one_node_pauses_another_is_asked_at_once(store: Store, config: Config) -> None:
    """And when both have failed, each waits for its own time; the last word is that all was tried."""
    agents = Agent(store, WORKER), Agent(store, MASTER)
    router = await running(store, config, *agents)
    await ask(store, "q1", tier="2")
    await settle(router)
    tried = []
    for second in range(12):
        for agent in agents:
            for run in await agent.read_work():
                tried.append((second, agent.node))
                await agent.fail(run, "not_ollama")
                await settle(router)
        await passes(store, router, 1_000, *agents)
    assert [node for _, node in tried[:2]] == [WORKER, MASTER]
    assert [second for second, _ in tried] == [0, 0, 1, 1]
    [end] = [row for row in await replies(store) if row["id"] == "q1" and row["kind"] == "error"]
    assert end["code"] == "attempts_exhausted"


async def test_who_only_embeds_refuses_at_once_while_the_other_is_away(
    store: Store, config: Config
) -> None:
    """A second opinion counts from a node that could give one now: with the other one silent, twice is
    enough, and there is no pause between."""
    worker, master = Agent(store, WORKER), Agent(store, MASTER)
    router = await running(store, config, worker, master)
    await passes(store, router, 7_000, worker)
    await ask(store, "q1", tier="2")
    await settle(router)
    for _ in range(2):
        [run] = await worker.read_work()
        await worker.fail(run, "refused", blame="request")
        await settle(router)
    [end] = [row for row in await replies(store) if row["kind"] == "error"]
    assert end["code"] == "refused"
    assert len(await work_of(store, WORKER, "run")) == 2
