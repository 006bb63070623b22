"""A log is judged by the version of the decider that made it, and by the policy then in force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import structs

from orion_streams.config import Config
from orion_streams.decider import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER, Policy
from orion_streams.model.state import Grid
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import DECISIONS, Report, verify
from tests.conftest import MemoryStore
from tests.eventlog.driving import running
from tests.eventlog.test_revisions import with_revision
from tests.helpers import Agent, ask, history, settle
from tests.replay.test_verify import WORKER, rewrite

NEWER = DECIDER + 1
WARM_MC, HOT_MC = 72_000, 80_000


def cautious(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """The question that a newer version asks: out five degrees sooner."""
    yield from decide.safety(grid, structs.replace(policy, temp_max_mc=policy.temp_max_mc - 5_000))


NEWER_QUESTIONS = (cautious, *decide.QUESTIONS[1:])


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the program is a newer one, which has the older questions as well."""
    monkeypatch.setitem(decide.DECIDERS, NEWER, NEWER_QUESTIONS)
    for module in ("model.policy", "decider.decide", "agents.router"):
        monkeypatch.setattr(f"orion_streams.{module}.DECIDER", NEWER)


async def day(store: MemoryStore, config: Config) -> None:
    """A router of the program as it is: one request on a warm node, one while it is hot; then it cools."""
    agents = [Agent(store, name) for name in (WORKER, "orion-master")]
    router = await running(store, config, *agents)
    for temp_mc in (WARM_MC, HOT_MC):
        store.skip(1_000)
        for agent in agents:
            agent.beats += 10 * config.revision
            await agent.beat(
                temp_mc=temp_mc if agent.node == WORKER else 50_000, boot=f"b{config.revision}"
            )
        await ask(store, f"q{config.revision}-{temp_mc}", tier="2")
        await settle(router)
    for agent in agents:
        for run in await agent.read_work():
            await agent.complete(run)
    for _ in range(config.policy.return_samples):
        for agent in agents:
            await agent.beat()
        await settle(router)


async def judged(store: MemoryStore, config: Config) -> Report:
    """What a verification finds."""
    return await verify(LiveSource(store.log, config))


async def backed_off(store: MemoryStore) -> list[tuple[int, int]]:
    """The temperatures at which nodes were put out, and the marks."""
    rows = await history(store.log)
    return [(event.value, event.mark) for event in rows if isinstance(event, ev.NodeBackedOff)]


async def deciders(store: MemoryStore) -> list[int]:
    """The versions that the log names, in order."""
    return [event.decider for event in await history(store.log) if isinstance(event, ev.PolicyChanged)]


async def test_an_old_log_is_judged_by_the_version_that_made_it(
    config: Config, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log of the version before and one of the newer one: they decided differently, and both verify.
    The control: judged by the newer questions, the old log diverges."""
    old, new = MemoryStore(), MemoryStore()
    await day(old, config)
    request.getfixturevalue("upgrade")
    await day(new, config)
    assert (await deciders(old), await deciders(new)) == ([DECIDER], [NEWER])
    assert await backed_off(old) == [(HOT_MC, 75_000)]
    assert await backed_off(new) == [(WARM_MC, 70_000)]
    for store in (old, new):
        report = await judged(store, config)
        assert (report.diverged, report.older) == (0, 0)
        assert report.decisions >= 3
    monkeypatch.setitem(decide.DECIDERS, DECIDER, NEWER_QUESTIONS)
    assert (await judged(old, config)).diverged > 0
    assert (await judged(new, config)).diverged == 0


async def test_a_log_that_was_gone_on_with_is_judged_part_by_part(
    config: Config, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program is replaced by a newer one under the same log: each part by its own version. The control:
    without the newer one its part is folded, counted and named, and the older part is judged still."""
    store = MemoryStore()
    await day(store, config)
    before = (await judged(store, config)).decisions
    request.getfixturevalue("upgrade")
    await day(store, with_revision(config, 2))
    assert await deciders(store) == [DECIDER, NEWER]
    whole = await judged(store, config)
    assert (whole.diverged, whole.older, whole.older_deciders) == (0, 0, [])
    monkeypatch.delitem(decide.DECIDERS, NEWER)
    part = await judged(store, config)
    assert part.diverged == 0
    assert part.older_deciders == [NEWER]
    assert part.decisions == before
    assert part.older == whole.decisions - before > 0


async def test_a_log_of_a_version_that_nobody_has_is_folded(config: Config) -> None:
    """Nothing of it is judged, all of it is counted, and the version is named."""
    store = MemoryStore()
    await day(store, config)
    rows = await history(store.log)
    at, rules = next((n, event) for n, event in enumerate(rows, 1) if isinstance(event, ev.PolicyChanged))
    await rewrite(store, {at: structs.replace(rules, decider=77)})
    report = await judged(store, config)
    assert (report.events, report.decisions, report.diverged) == (len(rows), 0, 0)
    assert report.older == sum(isinstance(event, DECISIONS) for event in rows) > 0
    assert report.older_deciders == [77]


async def test_each_decision_is_judged_by_the_policy_then_in_force(config: Config) -> None:
    """Three revisions in one log, each with another mark. The control: with the second one forged into the
    first one's rules, the first decision of that time diverges."""
    store = MemoryStore()
    marks = (75_000, 60_000, 71_000)
    for revision, mark in enumerate(marks, 1):
        await day(store, with_revision(config, revision, temp_max_mc=mark, temp_return_mc=mark - 5_000))
    rows = await history(store.log)
    changes = [(n, event) for n, event in enumerate(rows, 1) if isinstance(event, ev.PolicyChanged)]
    assert [event.policy.temp_max_mc for _, event in changes] == list(marks)
    assert {mark for _, mark in await backed_off(store)} == set(marks)
    report = await judged(store, config)
    assert (report.diverged, report.older) == (0, 0)
    (_, first), (at, second), _ = changes
    await rewrite(store, {at: structs.replace(second, policy=first.policy)})
    report = await judged(store, config)
    divergence = report.first_divergence
    assert divergence is not None
    assert divergence.position > at
    assert "node.backed_off" in str(divergence.recorded) + str(divergence.recomputed)
