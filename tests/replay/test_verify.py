"""Re-deciding a log: an honest one is confirmed, a changed one is found out."""

from __future__ import annotations

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER
from orion_streams.protocol.commit_builder import GENESIS, chain
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import DECISIONS, verify
from tests.conftest import MemoryStore
from tests.helpers import Agent, Store, ask, history, settle, snapshots

WORKER = "orion-worker"


async def play(store: Store, config: Config) -> Router:
    """A short history: an answer, a failure that is tried again, a hot node, an expiry."""
    worker, master = Agent(store, WORKER), Agent(store, "orion-master")
    for agent in (worker, master):
        await agent.beat()
    router = Router(store.log, config)
    await router.start()
    for name in ("q1", "q2", "q3"):
        await ask(store, name, tier="2")
    await settle(router)
    for agent in (worker, master):
        for run in await agent.read_work():
            await (agent.fail(run) if run.request == "brain/q1" else agent.complete(run))
    await settle(router)
    await worker.beat(temp_mc=80_000)
    await ask(store, "q4", deadline_ms="1")
    await settle(router)
    store.skip(5_000)
    await settle(router)
    return router


async def rewrite(store: MemoryStore, change: dict[int, ev.AnyEvent]) -> None:
    """Replace events of the log and mend the running hash, as a careful forger would."""
    digest = GENESIS
    for position, (entry_id, fields) in enumerate(list(store.memory.streams["log"].items()), start=1):
        event = change.get(position) or event_codec.decode(fields[b"event"])
        if isinstance(event, ev.Committed):
            event = structs.replace(event, hash=digest.hex())
        raw = event_codec.encode(event)
        digest = chain(digest, raw)
        store.memory.streams["log"][entry_id] = {b"event": raw}


async def test_an_honest_log_is_confirmed(store: Store, config: Config) -> None:
    """Every decision of a real history is recomputed and equal, on every kind of log."""
    await play(store, config)
    report = await verify(LiveSource(store.log, Config()))
    events = await history(store.log)
    assert report.events == len(events)
    assert report.decisions == sum(isinstance(event, DECISIONS) for event in events) > 5
    assert (report.diverged, report.first_divergence) == (0, None)


async def test_a_log_is_confirmed_from_a_snapshot(config: Config) -> None:
    """A log whose beginning was trimmed is verified from the snapshot that reaches it."""
    store = MemoryStore()
    often = structs.replace(config, retention=structs.replace(config.retention, snapshot_events=5))
    router = await play(store, often)
    for number in range(2):
        await ask(store, f"more{number}")
        await settle(router)
        await router.retention.keep(router.state, router.guard)
        await router.retention.close()
    kept = await snapshots(store.log)
    await store.log.trim("log", f"{kept[-1].position + 1}-0")
    report = await verify(LiveSource(store.log, Config()))
    assert 0 < report.events < router.state.grid.position
    assert report.diverged == 0


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ev.RequestRouted, {"node": "orion-edge"}),
        (ev.RequestRouted, {"verdicts": ()}),
        (ev.RequestFailed, {"code": "refused"}),
        (ev.NodeBackedOff, {"value": 75_001}),
    ],
)
async def test_a_changed_decision_is_found(
    config: Config, kind: type[ev.Event], changes: dict[str, object]
) -> None:
    """A decision that was changed is named by its position, with what should stand there, though the
    running hash was mended."""
    store = MemoryStore()
    limited = structs.replace(config, policy=structs.replace(config.policy, max_attempts=1))
    await play(store, limited)
    events = await history(store.log)
    position, event = next((n, e) for n, e in enumerate(events, start=1) if isinstance(e, kind))
    await rewrite(store, {position: structs.replace(event, **changes)})
    report = await verify(LiveSource(store.log, Config()))
    first = report.first_divergence
    assert first is not None
    assert first.position == position
    assert first.recorded != first.recomputed


async def test_a_changed_input_breaks_the_hash(config: Config) -> None:
    """An input that was changed without mending the hash is named by the next commit's position."""
    store = MemoryStore()
    await play(store, config)
    events = await history(store.log)
    position, sampled = next((n, e) for n, e in enumerate(events, 1) if isinstance(e, ev.NodeSampled))
    entry = f"{position}-0"
    store.memory.streams["log"][entry] = {
        b"event": event_codec.encode(structs.replace(sampled, temp_mc=10))
    }
    with pytest.raises(LogError, match=r"positions \d+ to \d+ is not the log that was written"):
        await verify(LiveSource(store.log, Config()))


async def test_what_another_version_decided_is_not_judged(config: Config) -> None:
    """Decisions of older code are folded and counted, not called diverged; our own are."""
    for decider, diverged in ((1, False), (DECIDER, True)):
        store = MemoryStore()
        await play(store, config)
        events = await history(store.log)
        changed: dict[int, ev.AnyEvent] = {}
        for position, event in enumerate(events, start=1):
            if isinstance(event, ev.PolicyChanged):
                changed[position] = structs.replace(event, decider=decider)
            elif isinstance(event, ev.RequestRouted):
                changed[position] = structs.replace(event, verdicts=())
        await rewrite(store, changed)
        report = await verify(LiveSource(store.log, Config()))
        assert bool(report.diverged) is diverged
        assert report.older == (0 if diverged else sum(isinstance(event, DECISIONS) for event in events))
