"""Lost and damaged streams are noticed, said, and never skipped over."""

from __future__ import annotations

import pytest

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import load
from orion_streams.model import events as ev
from orion_streams.model.commit import CURSOR
from tests.conftest import ServerStore
from tests.eventlog.driving import EDGE, MASTER, WORKER, dispatch, running
from tests.helpers import MODEL, Agent, Store, ask, assert_consistent, dispatched, kinds, replies, settle


async def test_malformed_input_is_answered_and_passed(store: Store, agent: Agent, router: Router) -> None:
    """Each unreadable entry becomes one event, of a client also one reply, and the next entry is taken."""
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


async def test_a_running_router_reads_on_behind_its_cursor(store: Store, router: Router) -> None:
    """A stream that is deleted under a running router, and made anew below the cursor, does not stop it
    when it begins again: it reads the stream from its beginning."""
    await ask(store, "q0")
    await settle(router)
    await router.look_for_losses()
    await store.drop("requests:brain")
    await store.add("requests:brain", {"id": "q1", "model": MODEL, "prompt": "p", "tier": "2"}, "5-0")
    await router.start()
    await router.look_for_losses()
    await settle(router)
    assert "brain/q1" in router.state.grid.open


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


async def test_a_deleted_body_ends_its_request(store: Store, agent: Agent, router: Router) -> None:
    """A request whose entry is gone before it could run gets one error, body_gone; others go on."""
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


async def test_an_entry_deleted_while_it_is_accepted_stops_nobody(
    store: Store, agent: Agent, router: Router
) -> None:
    """A request that vanishes between the read and the commit was never accepted; the next one is."""
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


async def test_a_crashed_agents_attempt_is_given_up(
    store: Store, config: Config, agent: Agent, router: Router
) -> None:
    """Health that no longer lists an attempt, often enough, frees its slot and the request runs again."""
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
    assert list(router.state.grid.nodes[WORKER].assignments) == [new.work_id]
    await assert_consistent(store)


async def test_a_changed_line_of_the_log_is_noticed(store: Store, agent: Agent, router: Router) -> None:
    """An event that was altered, with its position kept, breaks the running hash for whoever folds."""
    await agent.beat()
    await settle(router)
    rows = await store.log.events(0, 100)
    await store.drop("log")
    for position, raw in rows:
        await store.add("log", {"event": raw.replace(b"50000", b"50001")}, f"{position}-0")
    with pytest.raises(LogError, match="running hash"):
        await load(store.log)
