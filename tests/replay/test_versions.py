"""A program judges the decisions of its own decider version, by the policy then in force."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from msgspec import structs

from orion_streams.config import Config
from orion_streams.decider import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER
from orion_streams.model.state import Grid
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import DECISIONS, Report, verify
from tests.conftest import MemoryStore
from tests.eventlog.driving import running
from tests.eventlog.test_revisions import with_revision
from tests.grids import under
from tests.helpers import Agent, ask, history, settle
from tests.replay.test_verify import WORKER, rewrite

NEWER = DECIDER + 1
WARM_MC, HOT_MC = 72_000, 80_000


def cautious(grid: Grid) -> Iterator[ev.AnyEvent]:
    """The question that a newer version asks: out five degrees sooner."""
    policy = structs.replace(grid.policy, temp_max_mc=grid.policy.temp_max_mc - 5_000)
    yield from decide.safety(under(grid, policy))


NEWER_QUESTIONS = (cautious, *decide.QUESTIONS[1:])


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes the program a newer one: another number, other questions."""

    def newer() -> None:
        monkeypatch.setattr(decide, "QUESTIONS", NEWER_QUESTIONS)
        for module in ("model.policy", "agents.router", "replay.verify"):
            monkeypatch.setattr(f"orion_streams.{module}.DECIDER", NEWER)

    return newer


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


async def test_each_version_judges_its_own_logs(
    config: Config, upgrade: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions decide differently. Each confirms its own log and counts the other's decisions under the
    other's number. The control: the newer questions, asked of the old log, diverge."""
    old, new = MemoryStore(), MemoryStore()
    await day(old, config)
    of_old = await judged(old, config)
    assert (of_old.diverged, of_old.older) == (0, 0)
    assert of_old.decisions >= 3
    upgrade()
    await day(new, config)
    assert (await deciders(old), await deciders(new)) == ([DECIDER], [NEWER])
    assert await backed_off(old) == [(HOT_MC, 75_000)]
    assert await backed_off(new) == [(WARM_MC, 70_000)]
    of_new = await judged(new, config)
    assert (of_new.diverged, of_new.older) == (0, 0)
    assert of_new.decisions >= 3
    told = await judged(old, config)
    assert (told.events, told.decisions, told.diverged) == (of_old.events, 0, 0)
    assert (told.older, told.older_deciders) == (of_old.decisions, [DECIDER])
    monkeypatch.setattr("orion_streams.replay.verify.DECIDER", DECIDER)
    assert (await judged(old, config)).diverged > 0


async def test_a_log_that_was_gone_on_with_is_judged_part_by_part(
    config: Config, upgrade: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program is replaced by a newer one under the same log: each of the two judges its own part, and
    counts and names the other."""
    store = MemoryStore()
    await day(store, config)
    before = (await judged(store, config)).decisions
    upgrade()
    await day(store, with_revision(config, 2))
    assert await deciders(store) == [DECIDER, NEWER]
    newer = await judged(store, config)
    monkeypatch.undo()
    older = await judged(store, config)
    assert (newer.diverged, newer.older, newer.older_deciders) == (0, before, [DECIDER])
    assert (older.diverged, older.decisions, older.older_deciders) == (0, before, [NEWER])
    assert older.older == newer.decisions > 0


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
