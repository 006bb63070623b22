"""The router on a log in memory, on Valkey and on Redis, against agents driven by hand."""

from __future__ import annotations

import asyncio
import logging

import pytest
from msgspec import structs

from orion_streams import events as ev
from orion_streams.agents.router import Router
from orion_streams.commits import CURSOR
from orion_streams.config import Config, policy_id
from orion_streams.errors import ConfigError, LogError
from orion_streams.history import load, position_at
from orion_streams.state import encode_grid, work_order
from tests.conftest import ServerStore
from tests.helpers import (
    MODEL,
    Agent,
    Run,
    Store,
    ask,
    assert_consistent,
    assert_replays,
    dispatched,
    folded,
    head_of,
    history,
    kinds,
    make_commit,
    replies,
    settle,
)

WORKER, MASTER, EDGE = "orion-worker", "orion-master", "orion-edge"


async def running(store: Store, config: Config, *agents: Agent) -> Router:
    """A router that has heard of the agents."""
    for agent in agents:
        await agent.beat()
    router = Router(store.log, config)
    await router.start()
    return router


async def dispatch(store: Store, router: Router, agent: Agent, request_id: str) -> Run:
    """Ask the worker's tier, and take the run off the agent's stream."""
    await ask(store, request_id, tier="2")
    await settle(router)
    [run] = await agent.read_work()
    assert run.request == f"brain/{request_id}"
    return run


async def test_a_request_is_answered_exactly_once(store: Store, config: Config) -> None:
    """A request is routed with its body, its tokens pass through in order, and it gets one answer."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    run = await dispatch(store, router, agent, "q1")
    [(work_id, body)] = await store.entries(f"work:{WORKER}")
    assert body[b"prompt"] == b"prompt of q1"
    assert (work_id, run.attempt) == (run.work_id, 1)
    await agent.say(run, "started")
    await agent.say(run, "tokens", b"4", seq=1)
    await agent.say(run, "tokens", b"2", seq=2)
    await agent.complete(run, b"42")
    await settle(router)
    told = await replies(store)
    assert [(row["kind"], row["text"], row["attempt"]) for row in told] == [
        ("token", "4", "1"),
        ("token", "2", "1"),
        ("done", "42", "1"),
    ]
    assert told[-1]["node"] == WORKER
    events = await assert_consistent(store)
    assert router.state.grid.closed["brain/q1"].reply_id == told[-1]["entry"]
    assert not any(b"prompt of" in ev.encode(event) for event in events)


async def test_a_resent_id_starts_nothing(store: Store, config: Config) -> None:
    """While it is open a resend is ignored; afterwards it is told how it ended and where that stands."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    run = await dispatch(store, router, agent, "q1")
    await ask(store, "q1")
    await settle(router)
    assert await kinds(store, "q1") == []
    await agent.complete(run)
    await settle(router)
    await ask(store, "q1", prompt="something else")
    await settle(router)
    told = await replies(store)
    assert [row["kind"] for row in told] == ["done", "known"]
    assert (told[1]["state"], told[1]["reply_id"]) == ("done", told[0]["entry"])
    assert len(await dispatched(store)) == 1
    await assert_consistent(store)


async def test_results_may_be_sent_again(store: Store, config: Config) -> None:
    """An agent that resends everything it said changes nothing."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    run = await dispatch(store, router, agent, "q1")
    for _ in range(2):
        await agent.say(run, "started")
        await agent.say(run, "tokens", b"4", seq=1)
        await settle(router)
    for _ in range(2):
        await agent.complete(run)
    await settle(router)
    await agent.complete(run)
    await settle(router)
    assert await kinds(store, "q1") == ["token", "done"]
    await assert_consistent(store)


async def test_a_cancel_ends_the_request_and_its_run(store: Store, config: Config) -> None:
    """A cancel is answered once, the node is told to stop, and its slot is free when it did."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    run = await dispatch(store, router, agent, "q1")
    await store.add("requests:brain", {"cancel": "q1"})
    await settle(router)
    assert await kinds(store, "q1") == ["cancelled"]
    assert run.work_id in router.state.grid.nodes[WORKER].holdings
    assert await agent.read_work() == []
    assert agent.runs == {}
    await settle(router)
    assert router.state.grid.nodes[WORKER].holdings == {}
    await store.add("requests:brain", {"cancel": "q1"})
    await store.add("requests:brain", {"cancel": "never heard of"})
    await settle(router)
    assert await kinds(store, "q1") == ["cancelled", "known"]
    assert await kinds(store, "never heard of") == ["rejected"]
    await assert_consistent(store)


async def test_malformed_input_is_answered_and_passed(store: Store, config: Config) -> None:
    """Each unreadable entry becomes one event, of a client also one reply, and the next entry is taken."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    await store.add("requests:brain", {"id": "bad"})
    await store.add("requests:brain", {"id": "nowhere", "model": "nobody-has-it:1b", "prompt": "p"})
    await store.add("requests:brain", {b"\xff": b"\xff"})
    await store.add(f"health:{WORKER}", {"head": "{"})
    await store.add(f"results:{WORKER}", {"nothing": "here"})
    await settle(router)
    told = await replies(store)
    assert [(row["kind"], row["code"]) for row in told] == [
        ("rejected", "bad_field"),
        ("rejected", "bad_utf8"),
    ]
    for name in (MASTER, EDGE):
        await Agent(store, name).beat()
    await store.add("requests:brain", {"id": "nobody", "model": "another:1b", "prompt": "p"})
    await settle(router)
    assert await kinds(store, "nobody") == ["rejected"]
    run = await dispatch(store, router, agent, "good")
    assert run.attempt == 1
    rejected = [e for e in await assert_consistent(store) if isinstance(e, ev.InputRejected)]
    assert sorted(event.stream.partition(":")[0] for event in rejected) == [
        "health",
        "requests",
        "requests",
        "results",
    ]


@pytest.mark.parametrize(
    ("stream", "rest"),
    [
        (f"results:{WORKER}", {}),
        (f"health:{WORKER}", {}),
        ("requests:brain", {"id": "q1", "model": MODEL, "prompt": "p"}),
        ("requests:brain", {"id": "q1"}),
    ],
    ids=["result", "health", "request", "bad request"],
)
async def test_what_only_looks_like_tokens_is_a_commit_of_its_own(
    store: Store, config: Config, stream: str, rest: dict[str, str]
) -> None:
    """An entry whose head begins as tokens do, but that makes an event, is logged under a head."""
    router = await running(store, config, Agent(store, WORKER))
    await store.add(stream, {"head": '{"op":"tokens", and then nothing'} | rest)
    await settle(router)
    await assert_consistent(store)


async def test_a_request_of_a_thousand_repeated_fields_stops_nobody(
    server_store: ServerStore, config: Config
) -> None:
    """Fields may repeat in a stream's entry: such a request is ended, and the next one is answered."""
    agent = Agent(server_store, WORKER)
    router = await running(server_store, config, agent)
    pairs = [("id", "q1"), ("model", MODEL), *([("prompt", "p")] * 1200)]
    await server_store.add_pairs("requests:brain", pairs)
    await settle(router)
    [run] = await agent.read_work()
    await agent.complete(run)
    await settle(router)
    await dispatch(server_store, router, agent, "q2")


async def test_a_new_router_folds_to_the_same_grid(store: Store, config: Config) -> None:
    """Whoever starts from the log alone has, byte for byte, the grid of the one that wrote it."""
    agent, other = Agent(store, WORKER), Agent(store, MASTER)
    router = await running(store, config, agent, other)
    await agent.fail(await dispatch(store, router, agent, "q1"))
    await settle(router)
    await store.add("requests:brain", {"cancel": "q1"})
    await store.add("requests:brain", {"id": "bad"})
    await agent.beat(temp_mc=80_000)
    await settle(router)
    for state in (await load(store.another()), await folded(store.log)):
        assert encode_grid(state.grid) == encode_grid(router.state.grid)
        assert state.digest == router.state.digest
    restarted = Router(store.another(), config)
    await restarted.start()
    assert encode_grid(restarted.state.grid) == encode_grid(router.state.grid)
    assert restarted.guard == router.guard == await store.log.guard()


async def test_two_routers_do_nothing_twice(store: Store, config: Config) -> None:
    """Two routers that work at the same time lose commits to each other, and nothing happens twice."""
    agents = [Agent(store, WORKER), Agent(store, MASTER)]
    first = await running(store, config, *agents)
    second = Router(store.another(), config)
    await second.start()
    for n in range(12):
        await ask(store, f"q{n}")
        await asyncio.gather(first.cycle(0), second.cycle(0))
        for agent in agents:
            for run in await agent.read_work():
                await agent.say(run, "tokens", b"4", seq=1)
                await agent.say(run, "tokens", b"2", seq=2)
        await asyncio.gather(second.cycle(0), first.cycle(0))
        for agent in agents:
            for run in list(agent.runs.values()):
                await agent.complete(run)
            await agent.beat()
    while any(await asyncio.gather(first.cycle(0), second.cycle(0))):
        for agent in agents:
            for run in await agent.read_work():
                await agent.complete(run)
    events = await assert_consistent(store)
    done = [event for event in events if isinstance(event, ev.RequestCompleted)]
    assert sorted(event.request for event in done) == sorted(f"brain/q{n}" for n in range(12))
    sampled = sum(isinstance(event, ev.NodeSampled) for event in events)
    assert sampled == sum(agent.beats for agent in agents)


async def test_the_loser_folds_again_and_goes_on(store: Store, config: Config) -> None:
    """A router that lost a commit has the winner's grid, and its next commit is written."""
    agent = Agent(store, WORKER)
    first = await running(store, config, agent)
    second = Router(store.another(), config)
    await second.start()
    await agent.beat()
    assert await first.cycle(0)
    assert await second.cycle(0)
    assert encode_grid(second.state.grid) == encode_grid(first.state.grid)
    position = second.state.grid.position
    await agent.beat()
    assert await second.cycle(0)
    assert await store.log.last_position() > position
    await assert_consistent(store)


async def test_a_follower_takes_over_when_the_leader_stands_still(store: Store, config: Config) -> None:
    """Who lost often enough only follows; it leads again once inputs wait and nothing is committed."""
    agent = Agent(store, WORKER)
    leader = await running(store, config, agent)
    second = Router(store.another(), config)
    await second.start()
    for _ in range(config.limits.lose_before_following):
        assert not second.following
        await agent.beat()
        await leader.cycle(0)
        await second.cycle(0)
    assert second.following
    await agent.beat()
    await leader.cycle(0)
    await second.follow(1)
    assert second.following
    assert encode_grid(second.state.grid) == encode_grid(leader.state.grid)
    await second.follow(1)
    assert second.following
    await ask(store, "q1")
    await second.follow(1)
    assert not second.following
    await settle(second)
    assert len(await dispatched(store)) == 1
    await leader.cycle(0)
    assert encode_grid(second.state.grid) == encode_grid(leader.state.grid)
    await assert_consistent(store)


async def test_a_slept_through_rewritten_tail_is_noticed(store: Store, config: Config) -> None:
    """The server lost its tail and another router wrote a new one: who slept meanwhile writes nothing."""
    agent = Agent(store, WORKER)
    sleeper = await running(store, config, agent)
    before = await store.dump()
    await agent.beat()
    await sleeper.cycle(0)
    slept_at = await head_of(store.log)
    await store.restore(before)
    await agent.beat(temp_mc=60_000)
    other = Router(store.another(), config)
    await other.start()
    now_at = await head_of(store.log)
    assert (now_at.number, now_at.position) == (slept_at.number, slept_at.position)
    position = await store.log.last_position()
    await ask(store, "q1")
    await sleeper.cycle(0)
    assert await store.log.last_position() == position
    assert encode_grid(sleeper.state.grid) == encode_grid(other.state.grid)
    await settle(sleeper)
    assert len(await dispatched(store)) == 1
    await assert_consistent(store)


def with_revision(config: Config, revision: int, **policy: int) -> Config:
    """The configuration with another revision and other rules."""
    changed = structs.replace(config.policy, **policy)
    return structs.replace(config, revision=revision, policy=changed)


async def test_the_first_router_writes_its_rules(store: Store, config: Config) -> None:
    """An empty log takes the file's policy and nodes, before anything else."""
    router = await running(store, config)
    head, changed = await history(store.log)
    assert isinstance(head, ev.Committed)
    assert not head.decided
    rules = config.rules()
    assert changed == ev.PolicyChanged(1, policy_id(config.policy, rules), config.policy, rules)
    assert sorted(router.state.grid.nodes) == sorted([EDGE, MASTER, WORKER])


async def test_a_higher_revision_replaces_the_rules(store: Store, config: Config) -> None:
    """A file with a higher revision is written into the log and holds from there."""
    await running(store, config)
    router = await running(store, with_revision(config, 2, spill_ms=7))
    assert (router.state.grid.revision, router.state.grid.policy.spill_ms) == (2, 7)
    assert sum(isinstance(event, ev.PolicyChanged) for event in await history(store.log)) == 2


async def test_the_same_revision_with_other_rules_is_refused(store: Store, config: Config) -> None:
    """The message names the revision to set, and nothing is written."""
    await running(store, config)
    before = await store.dump()
    with pytest.raises(ConfigError, match="set revision = 2") as caught:
        await running(store, with_revision(config, 1, spill_ms=7))
    assert caught.value.exit_code == 78
    assert await store.dump() == before


async def test_a_lower_revision_yields(
    store: Store, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """The log's rules hold over a file with a lower revision, and the router says so."""
    await running(store, with_revision(config, 3, spill_ms=7))
    with caplog.at_level(logging.WARNING, logger="orion.router"):
        router = await running(store, config)
    assert "the log's rules hold" in caplog.text
    assert (router.state.grid.revision, router.state.grid.policy.spill_ms) == (3, 7)


async def test_new_rules_survive_a_lost_commit(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router whose proposal loses to a commit of the old leader proposes again before it leads."""
    agent = Agent(store, WORKER)
    leader = await running(store, config, agent)
    log = store.another() if store.kind != "memory" else store.log
    tops = log.tops

    async def tops_while_the_leader_works(streams: dict[str, str]) -> dict[str, str]:
        found = await tops(streams)
        await agent.beat()
        await leader.cycle(0)
        return found

    monkeypatch.setattr(log, "tops", tops_while_the_leader_works)
    router = Router(log, with_revision(config, 2, spill_ms=7))
    recover = router.recover

    async def recover_and_lose() -> None:
        await recover()
        await agent.beat()
        await leader.cycle(0)
        monkeypatch.setattr(router, "recover", recover)

    monkeypatch.setattr(router, "recover", recover_and_lose)
    await router.start()
    assert (router.state.grid.revision, router.state.grid.policy.spill_ms) == (2, 7)


async def test_what_waits_is_folded_before_the_first_decision(store: Store, config: Config) -> None:
    """A restarted router knows of the fire before it routes: all health first, undecided."""
    agent = Agent(store, WORKER)
    stopped = await running(store, config, agent)
    await settle(stopped)
    for _ in range(config.limits.batch_entries + 10):
        await agent.beat()
    await agent.beat(temp_mc=76_000)
    await ask(store, "q1")
    position = stopped.state.grid.position
    router = Router(store.another(), config)
    await router.start()
    backlog = (await history(store.log))[position:]
    heads = [event for event in backlog if isinstance(event, ev.Committed)]
    assert len(heads) > 1
    assert not any(head.decided for head in heads)
    assert backlog[-1] == ev.NodeSampled(
        **{
            name: getattr(backlog[-1], name)
            for name in ev.NodeSampled.__struct_fields__
            if name not in ("node", "temp_mc")
        },
        node=WORKER,
        temp_mc=76_000,
    )
    assert "brain/q1" not in router.state.grid.open
    await settle(router)
    assert await dispatched(store) == []
    assert router.state.grid.nodes[WORKER].backed_off == "hot"
    assert router.state.grid.open["brain/q1"].deferred == "no_node"
    await assert_consistent(store)


async def test_a_cursor_beyond_its_stream_is_refused(store: Store, config: Config) -> None:
    """A stream that lost its tail would be read as empty for ever: the start names the mending line."""
    agent = Agent(store, WORKER)
    await settle(await running(store, config, agent))
    cursor = (await store.log.guard()).cursors[f"health:{WORKER}"]
    await store.drop(f"health:{WORKER}")
    with pytest.raises(LogError) as caught:
        await Router(store.another(), config).start()
    line = f"redis-cli HSET {store.prefix}guard '{CURSOR}health:{WORKER}' 0-0"
    assert line in str(caught.value)
    assert cursor in str(caught.value)


@pytest.mark.parametrize("key", ["guard", "log"])
async def test_a_lost_guard_or_log_is_refused(store: Store, config: Config, key: str) -> None:
    """Without one of the two nobody knows what was taken before: the start says so and writes nothing."""
    agent = Agent(store, WORKER)
    await settle(await running(store, config, agent))
    await store.drop(key)
    before = await store.dump()
    with pytest.raises(LogError, match="lost"):
        await Router(store.another(), config).start()
    assert await store.dump() == before


async def test_a_deleted_body_ends_its_request(store: Store, config: Config) -> None:
    """A request whose entry is gone before it could run gets one error, body_gone; others go on."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    busy = await dispatch(store, router, agent, "q1")
    lost = await ask(store, "q2")
    await settle(router)
    assert "brain/q2" in router.state.grid.open
    await store.delete("requests:brain", lost)
    await agent.complete(busy)
    await settle(router)
    told = await replies(store)
    assert [(row["id"], row["kind"], row.get("code")) for row in told] == [
        ("q1", "done", None),
        ("q2", "error", "body_gone"),
    ]
    assert len(await dispatched(store)) == 1
    await dispatch(store, router, agent, "q3")
    await assert_consistent(store)


async def test_an_entry_deleted_while_it_is_accepted_stops_nobody(store: Store, config: Config) -> None:
    """A request that vanishes between the read and the commit was never accepted; the next one is."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    read = router.store.read

    async def read_and_lose(*args: object) -> object:
        answer = await read(*args)  # type: ignore[arg-type]
        for raw in answer[1]:
            if raw.fields.get(b"id") == b"q1":
                await store.delete(raw.stream, raw.id)
        return answer

    router.store.read = read_and_lose  # type: ignore[method-assign,assignment]
    await ask(store, "q1")
    await settle(router)
    assert await kinds(store, "q1") == []
    await dispatch(store, router, agent, "q2")
    await assert_consistent(store)


async def test_tokens_are_relayed_once_and_fenced(store: Store, config: Config) -> None:
    """Resent tokens and those of an attempt that was given up are dropped; a new attempt is announced."""
    agent, other = Agent(store, WORKER), Agent(store, MASTER)
    router = await running(store, config, agent, other)
    await ask(store, "q1", tier="2")
    await settle(router)
    [old] = await agent.read_work()
    for seq in (1, 2, 1, 2, 3):
        await agent.say(old, "tokens", f"old {seq}".encode(), seq=seq)
        await settle(router)
    for _ in range(5):
        store.skip(2000)
        await other.beat()
        await settle(router)
    [new] = await other.read_work()
    assert (new.request, new.attempt) == ("brain/q1", 2)
    await agent.say(old, "tokens", b"old 4", seq=4)
    await other.say(new, "tokens", b"new 1", seq=1)
    await agent.complete(old, b"old answer")
    await settle(router)
    await other.complete(new, b"new answer")
    await settle(router)
    told = [(row["kind"], row.get("text", "")) for row in await replies(store)]
    assert told == [
        ("token", "old 1"),
        ("token", "old 2"),
        ("token", "old 3"),
        ("restarted", ""),
        ("token", "new 1"),
        ("done", "new answer"),
    ]
    ended = [e for e in await assert_consistent(store) if isinstance(e, ev.AttemptEnded)]
    assert [event.work_id for event in ended] == [old.work_id]
    assert (await store.log.guard()).relayed == {}


async def test_tokens_alone_make_no_event(store: Store, config: Config) -> None:
    """A batch that only passes tokens on moves number and cursor, not the log."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    run = await dispatch(store, router, agent, "q1")
    position, number = router.state.grid.position, router.guard.number
    written = await agent.say(run, "tokens", b"4", seq=1)
    await router.cycle(0)
    assert await store.log.last_position() == position
    guard = await store.log.guard()
    assert guard == router.guard
    assert (guard.number, guard.cursors[f"results:{WORKER}"]) == (number + 1, written)
    assert guard.relayed == {run.work_id: 1}


async def test_a_crashed_agents_attempt_is_given_up(store: Store, config: Config) -> None:
    """Health that no longer lists an attempt, often enough, frees its slot and the request runs again."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    old = await dispatch(store, router, agent, "q1")
    agent.runs.clear()
    for _ in range(config.policy.gone_samples - 1):
        await agent.beat()
        await settle(router)
    assert await agent.read_work() == []
    await agent.beat()
    await settle(router)
    [new] = await agent.read_work()
    assert (new.request, new.attempt) == (old.request, 2)
    assert list(router.state.grid.nodes[WORKER].holdings) == [new.work_id]
    await assert_consistent(store)


async def test_deadlines_pass_by_ticks(store: Store, config: Config) -> None:
    """Without any input, time alone expires a request, in steps of at most max_step_ms."""
    router = await running(store, config)
    await ask(store, "q1", deadline_ms="60000")
    await settle(router)
    store.skip(3_600_000)
    await settle(router)
    assert await kinds(store, "q1") == []
    for _ in range(30):
        store.skip(config.policy.max_step_ms)
        await settle(router)
    assert await kinds(store, "q1") == ["expired"]
    assert await router.cycle(0) is False
    await assert_consistent(store)


async def test_answers_cut_at_max_events_go_on_at_once(store: Store, config: Config) -> None:
    """When decide had more to say than one commit holds, the next cycle says it without waiting."""
    small = structs.replace(config, policy=structs.replace(config.policy, max_events=2))
    router = await running(store, small)
    for n in range(7):
        await ask(store, f"q{n}")
    await settle(router)
    assert [request.deferred for request in router.state.grid.open.values()] == ["no_node"] * 7
    await assert_consistent(store)


async def test_a_backlog_is_taken_in_bounded_commits(store: Store, config: Config) -> None:
    """What waits beyond one batch is taken by the commits that follow, every entry once."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    count = 2 * config.limits.batch_entries + 5
    for n in range(count):
        await ask(store, f"q{n}")
    await settle(router)
    events = await assert_consistent(store)
    accepted = [event.request for event in events if isinstance(event, ev.RequestAccepted)]
    assert accepted == [f"brain/q{n}" for n in range(count)]
    inputs = [event.inputs for event in events if isinstance(event, ev.Committed)]
    assert max(inputs) <= config.limits.batch_entries * len(router.input_streams)


async def test_every_client_has_replies_of_its_own(store: Store, config: Config) -> None:
    """The same id of two clients is two requests, each answered in its own stream."""
    agents = [Agent(store, WORKER), Agent(store, MASTER)]
    router = await running(store, config, *agents)
    for client in ("brain", "cli"):
        await ask(store, "same", client)
    await settle(router)
    for agent in agents:
        for run in await agent.read_work():
            await agent.complete(run, run.request.encode())
    await settle(router)
    for client in ("brain", "cli"):
        [reply] = await replies(store, client)
        assert (reply["kind"], reply["text"]) == ("done", f"{client}/same")
    await assert_consistent(store, ("brain", "cli"))


async def test_the_edge_gets_no_request(store: Store, config: Config) -> None:
    """The robot's node reports health and is never given work, though it has the model and is idle."""
    router = await running(store, config, Agent(store, EDGE), Agent(store, WORKER))
    for n in range(5):
        await ask(store, f"q{n}", tier="1")
    await settle(router)
    assert [node for node, _ in await dispatched(store)] == [WORKER]
    assert await store.entries(f"work:{EDGE}") == []


async def test_a_changed_line_of_the_log_is_noticed(store: Store, config: Config) -> None:
    """An event that was altered, with its position kept, breaks the running hash for whoever folds."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    await agent.beat()
    await settle(router)
    rows = await store.log.events(0, 100)
    await store.drop("log")
    for position, raw in rows:
        await store.add("log", {"event": raw.replace(b"50000", b"50001")}, f"{position}-0")
    with pytest.raises(LogError, match="running hash"):
        await load(store.log)


async def test_a_moment_is_found_in_the_log(store: Store, config: Config) -> None:
    """The position at a server time is the end of the last commit that is not later."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    ends: dict[int, int] = {}
    for _ in range(6):
        store.skip(700)
        await agent.beat()
        await settle(router)
        ends[router.state.grid.server_ms] = router.state.grid.position
    for server_ms, position in ends.items():
        assert await position_at(store.log, server_ms) == position
        assert await position_at(store.log, server_ms + 1) == position
    assert await position_at(store.log, 0) == 0


async def test_output_ids_rise_though_the_clock_stands_still(store: Store, config: Config) -> None:
    """Every entry the router writes has an id above all before it, also within one millisecond."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    for n in range(5):
        await agent.complete(await dispatch(store, router, agent, f"q{n}"))
        await settle(router)
    written = [entry_id for entry_id, _ in await store.entries(f"work:{WORKER}")]
    written += [entry_id for entry_id, _ in await store.entries("replies:brain")]
    assert len({work_order(each) for each in written}) == 10
    assert (await store.log.guard()).out_id == max(written, key=work_order)


async def test_a_foreign_commit_is_folded_too(store: Store, config: Config) -> None:
    """A router that only reads the log follows what another committed, event by event."""
    router = await running(store, config)
    head = await head_of(store.log)
    foreign = ev.Committed(head.number + 1, 5, 0, False, router.state.digest.hex())
    await store.log.commit(make_commit(head, events=(ev.encode(foreign),)))
    await router.follow(1)
    assert router.state.grid.number == head.number + 1
    assert router.guard == await store.log.guard()
    assert assert_replays(await history(store.log)) == 0
