"""Rules and their revisions: what a router puts into the log, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import ConfigError, LogError
from orion_streams.eventlog.loader import decoded
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import Commit, Extent
from orion_streams.model.policy import DECIDER
from orion_streams.protocol import agent_entries
from tests.eventlog.driving import EDGE, MASTER, WORKER, running
from tests.helpers import Agent, Store, ask, history, replies, settle


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
    assert changed == ev.PolicyChanged(
        1, config.policy_id(), config.policy, rules, {}, DECIDER, config.clients
    )
    assert sorted(router.state.grid.nodes) == sorted([EDGE, MASTER, WORKER])


async def test_a_higher_revision_replaces_the_rules(store: Store, config: Config) -> None:
    """A file with a higher revision is written into the log and holds from there."""
    await running(store, config)
    router = await running(store, with_revision(config, 2, spill_ms=7))
    assert (router.state.grid.revision, router.state.grid.policy.spill_ms) == (2, 7)
    assert sum(isinstance(event, ev.PolicyChanged) for event in await history(store.log)) == 2


@pytest.mark.parametrize("nodes", [{}, {"inference": False}, {"slots": 2}])
async def test_a_node_that_is_dropped_ends_its_pull(
    store: Store, config: Config, nodes: dict[str, Any]
) -> None:
    """Also one that is kept without inference: who asked is told, and its agent stops. A node that is kept
    pulls on."""
    config = structs.replace(config, pull_from=("registry.ollama.ai",))
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    await store.add("requests:owner", {"id": "p1", "pull": "new:1b", "node": WORKER})
    await settle(router)
    disk = router.state.grid.nodes[WORKER].disk
    assert disk is not None
    left = {name: table for name, table in config.nodes.items() if name != WORKER}
    if nodes:
        left[WORKER] = structs.replace(config.nodes[WORKER], **nodes)
    await running(store, structs.replace(config, revision=2, nodes=left))
    ends = [each for each in await history(store.log) if isinstance(each, ev.DiskEnded)]
    work = [
        agent_entries.decode_work(fields[b"head"]) for _, fields in await store.entries(f"work:{WORKER}")
    ]
    is_kept = "slots" in nodes
    assert [each.code for each in ends] == ([] if is_kept else ["gone"])
    told = [row.get("code") for row in await replies(store, "owner") if row["kind"] == "error"]
    assert told == ([] if is_kept else ["gone"])
    assert (agent_entries.WorkHead("cancel", work_id=disk.work_id) in work) is not is_kept


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
    extents = log.extents

    async def extents_while_the_leader_works(streams: dict[str, str]) -> dict[str, Extent]:
        found = await extents(streams)
        await agent.beat()
        await leader.cycle(0)
        return found

    monkeypatch.setattr(log, "extents", extents_while_the_leader_works)
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


async def test_a_router_of_another_decider_does_not_decide(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under rules of a newer version, an older program neither starts nor goes on; nothing is written
    in its name."""
    older = await running(store, config)
    with monkeypatch.context() as newer:
        newer.setattr("orion_streams.agents.router.DECIDER", DECIDER + 1)
        await running(store, with_revision(config, 2))
    before = await store.dump()
    with pytest.raises(ConfigError, match=f"version {DECIDER + 1} of the decider is in force"):
        await running(store, config)
    with pytest.raises(ConfigError, match="set revision = 3"):
        await older.fold_again()
    assert await store.dump() == before


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The router is of the version before, until undone."""
    with monkeypatch.context() as older:
        older.setattr("orion_streams.agents.router.DECIDER", DECIDER - 1)
        yield older


async def changes(store: Store) -> list[ev.PolicyChanged]:
    """What was put into force, in order."""
    return [event for event in await history(store.log) if isinstance(event, ev.PolicyChanged)]


async def test_a_newer_version_that_loses_a_race_takes_over_all_the_same(
    store: Store, config: Config, as_before: pytest.MonkeyPatch
) -> None:
    """Beside an older router that decides all the time: what it commits meanwhile is no reason to end."""
    older = await running(store, config)
    as_before.undo()
    newer = Router(store.another(), config)
    commit = newer.store.commit

    async def second(what: Commit) -> None:
        as_before.setattr(newer.store, "commit", commit)
        await ask(store, "meanwhile")
        await older.cycle(0)
        await commit(what)

    as_before.setattr(newer.store, "commit", second)
    await newer.start()
    assert newer.state.grid.decider == DECIDER
    assert [each.decider for each in await changes(store)] == [DECIDER - 1, DECIDER]


async def test_a_newer_version_puts_itself_into_force(
    store: Store, config: Config, as_before: pytest.MonkeyPatch
) -> None:
    """Under the same revision, once, with the file's rules: their defaults may be others now."""
    await running(store, with_revision(config, 1, spill_ms=7))
    as_before.undo()
    for _ in range(2):
        router = await running(store, config)
    assert (router.state.grid.decider, router.state.grid.policy.spill_ms) == (
        DECIDER,
        config.policy.spill_ms,
    )
    first, second = await changes(store)
    assert (first.revision, first.decider, second.revision, second.decider) == (1, DECIDER - 1, 1, DECIDER)


async def test_a_newer_version_with_an_old_file_keeps_the_logs_rules(
    store: Store, config: Config, as_before: pytest.MonkeyPatch
) -> None:
    """The log's revision is above the file's: only the version changes. Who has the file of that revision
    brings its rules, once: their defaults may be others now."""
    await running(store, with_revision(config, 4, spill_ms=7))
    as_before.undo()
    router = await running(store, config)
    assert (router.state.grid.decider, router.state.grid.policy.spill_ms) == (DECIDER, 7)
    first, second = await changes(store)
    assert second == structs.replace(first, decider=DECIDER, inherited=True)
    right = await running(store, with_revision(config, 4, spill_ms=8))
    assert right.state.grid.policy.spill_ms == 8
    with pytest.raises(ConfigError, match="set revision = 5"):
        await running(store, with_revision(config, 4, spill_ms=9))


async def test_rules_of_a_newer_version_are_read(store: Store, config: Config) -> None:
    """Keys that this version does not know are passed over, in a log; an event that it does not know
    is not."""
    await running(store, config)
    first, *_ = await changes(store)
    tree = msgspec.json.decode(event_codec.encode(first))
    tree["policy"]["of_tomorrow"] = tree["nodes"][0]["of_tomorrow"] = tree["of_tomorrow"] = 1
    assert event_codec.decode(msgspec.json.encode(tree)) == first
    with pytest.raises(LogError, match="position 9 of the log is no event that this version"):
        decoded(9, b'{"event":"policy.of_tomorrow"}')
