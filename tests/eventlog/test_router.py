"""The router on a log in memory, on Valkey and on Redis, against agents driven by hand."""

from __future__ import annotations

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.eventlog.loader import position_at
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import parse_stream_id
from orion_streams.model.vocabulary import Mark
from tests.eventlog.driving import EDGE, MASTER, WORKER, another, dispatch, running
from tests.helpers import (
    MODEL,
    Agent,
    Store,
    ask,
    assert_consistent,
    dispatched,
    history,
    kinds,
    replies,
    settle,
)


async def test_a_request_is_answered_exactly_once(store: Store, agent: Agent, router: Router) -> None:
    """A request is routed with its body, its tokens pass through in order, and it gets one answer."""
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
    assert router.state.grid.closed["brain"]["brain/q1"].reply_id == told[-1]["entry"]
    assert not any(b"prompt of" in event_codec.encode(event) for event in events)


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


async def test_results_may_be_sent_again(store: Store, agent: Agent, router: Router) -> None:
    """An agent that resends everything it said changes nothing."""
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


async def test_a_cancel_ends_the_request_and_its_run(store: Store, agent: Agent, router: Router) -> None:
    """A cancel is answered once, the node is told to stop, and its slot is free when it did."""
    run = await dispatch(store, router, agent, "q1")
    await store.add("requests:brain", {"cancel": "q1"})
    await settle(router)
    assert await kinds(store, "q1") == ["cancelled"]
    assert run.work_id in router.state.grid.nodes[WORKER].assignments
    assert await agent.read_work() == []
    assert agent.runs == {}
    await settle(router)
    assert router.state.grid.nodes[WORKER].assignments == {}
    await store.add("requests:brain", {"cancel": "q1"})
    await store.add("requests:brain", {"cancel": "never heard of"})
    await settle(router)
    assert await kinds(store, "q1") == ["cancelled", "known"]
    assert await kinds(store, "never heard of") == ["rejected"]
    await assert_consistent(store)


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
    router = await another(store, config)
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
    assert router.state.grid.nodes[WORKER].backed_off == (Mark.HOT,)
    assert router.state.grid.open["brain/q1"].deferred == "no_node"
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


async def test_tokens_alone_make_no_event(store: Store, agent: Agent, router: Router) -> None:
    """A batch that only passes tokens on moves number and cursor, not the log."""
    run = await dispatch(store, router, agent, "q1")
    position, number = router.state.grid.position, router.guard.number
    written = await agent.say(run, "tokens", b"4", seq=1)
    await router.cycle(0)
    assert await store.log.last_position() == position
    guard = await store.log.guard()
    assert guard == router.guard
    assert (guard.number, guard.cursors[f"results:{WORKER}"]) == (number + 1, written)
    assert guard.relayed == {run.work_id: 1}


async def test_deadlines_pass_by_ticks(store: Store, config: Config) -> None:
    """Without any input, time alone expires a request, in steps of at most max_step_ms; the one after the
    clock jumped, in which no node is known, does not count."""
    router = await running(store, config)
    await ask(store, "q1", deadline_ms="60000")
    await settle(router)
    store.skip(3_600_000)
    await settle(router)
    assert await kinds(store, "q1") == []
    for _ in range(31):
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


async def test_a_backlog_is_taken_in_bounded_commits(store: Store, config: Config, router: Router) -> None:
    """What waits beyond one batch is taken by the commits that follow, every entry once."""
    count = 2 * config.limits.batch_entries + 5
    for n in range(count):
        await ask(store, f"q{n}")
    await settle(router)
    events = await assert_consistent(store)
    accepted = [event.request for event in events if isinstance(event, ev.RequestAccepted)]
    assert accepted == [f"brain/q{n}" for n in range(count)]
    inputs = [event.inputs for event in events if isinstance(event, ev.Committed)]
    assert max(inputs) <= config.limits.batch_entries * len(router.streams())


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


async def test_a_moment_is_found_in_the_log(store: Store, agent: Agent, router: Router) -> None:
    """The position at a server time is the end of the last commit that is not later."""
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


async def test_output_ids_rise_though_the_clock_stands_still(
    store: Store, agent: Agent, router: Router
) -> None:
    """Every entry the router writes has an id above all before it, also within one millisecond."""
    for n in range(5):
        await agent.complete(await dispatch(store, router, agent, f"q{n}"))
        await settle(router)
    written = [entry_id for entry_id, _ in await store.entries(f"work:{WORKER}")]
    written += [entry_id for entry_id, _ in await store.entries("replies:brain")]
    assert len({parse_stream_id(each) for each in written}) == 10
    assert (await store.log.guard()).out_id == max(written, key=parse_stream_id)


async def test_tokens_alone_do_not_stop_the_clock(store: Store, agent: Agent, router: Router) -> None:
    """While only tokens come, deadlines still pass and a silent node still grows stale."""
    run = await dispatch(store, router, agent, "q1")
    await ask(store, "late", tier="2", deadline_ms="5000")
    await settle(router)
    for seq in range(1, 20):
        store.skip(1_000)
        await agent.say(run, "tokens", b"x", seq=seq)
        await router.cycle(0)
    assert await kinds(store, "late") == ["expired"]
    assert "attempt.abandoned" in [event.__struct_config__.tag for event in await history(store.log)]


async def test_after_a_stall_nobody_routes_on_old_health(store: Store, config: Config) -> None:
    """A router that slept takes all that waits first: health from before its sleep routes nothing."""
    agent, seconds = Agent(store, WORKER), [0.0]
    await agent.beat()
    router = Router(store.log, config, clock=lambda: seconds[0])
    await router.start()
    await settle(router)
    await agent.beat()
    await ask(store, "q1", tier="2")
    store.skip(3_600_000)
    seconds[0] += 3_600
    await settle(router)
    assert await dispatched(store) == []
    await agent.beat()
    await settle(router)
    assert [node for node, _ in await dispatched(store)] == [WORKER]


async def test_a_client_that_asks_too_much_locks_nobody_out(store: Store, config: Config) -> None:
    """A client has `max_open` open requests of its own; one more is rejected, another client's is not."""
    narrow = structs.replace(config, policy=structs.replace(config.policy, max_open=2))
    router = await running(store, narrow, Agent(store, WORKER))
    for request_id in ("c1", "c2", "c3"):
        await ask(store, request_id, client="cli")
    await ask(store, "q1")
    await settle(router)
    assert [row["code"] for row in await replies(store, "cli") if row["id"] == "c3"] == ["queue_full"]
    assert await kinds(store, "q1") == []
    assert set(router.state.grid.open) == {"cli/c1", "cli/c2", "brain/q1"}


async def test_a_cut_stream_ends_all_its_requests(store: Store, agent: Agent, router: Router) -> None:
    """A client that trims away its own open requests gets an error for each, and others are served."""
    run = await dispatch(store, router, agent, "first")
    for number in range(5):
        await ask(store, f"q{number}", tier="2")
    await settle(router)
    await store.drop("requests:brain")
    await agent.complete(run)
    await ask(store, "other", client="cli", tier="2")
    await settle(router)
    told = [(row["kind"], row.get("code")) for row in await replies(store) if row["id"] != "first"]
    assert told == [("error", "body_gone")] * 5
    assert [each.request for each in await agent.read_work()] == ["cli/other"]
