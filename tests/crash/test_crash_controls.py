"""Remove each guard that the lives of this folder rely on at the moment that it is for: the promise breaks.
With the guard the same life keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.worker_core import WorkerCore
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.commit import GROUP, RELAYED, Commit
from orion_streams.runtime.faust_redis import App
from tests.crash.crash_roles import NODE
from tests.crash.life import Life, Plan, assert_no_attempt_twice, assert_promise
from tests.crash.mortal import mortality
from tests.helpers import assert_consistent, eventually

BOTH = pytest.mark.parametrize("guarded", [True, False])


@asynccontextmanager
async def held(url: str, prefix: str, app: App) -> AsyncIterator[Life]:
    """Open a life whose request was sent; its answer stops after two words until `ollama.hold` is set."""
    life = Life(url, prefix, Plan("answered"), app)
    life.ollama.hold.clear()
    with mortality():
        try:
            await life.ask()
            yield life
        finally:
            await life.close()


async def succeed_a_dying_router(
    patch: pytest.MonkeyPatch, life: Life, which: Callable[[Commit], bool], part: Callable[[Commit], Commit]
) -> None:
    """Start a router that dies once it has written that part of the first such commit; start the next."""
    whole = RedisLog.commit

    async def commit(self: RedisLog, wanted: Commit) -> None:
        if life.router.struck.is_set() or len(life.graves) > 2 or not which(wanted):
            await whole(self, wanted)
            return
        await whole(self, part(wanted))
        life.router.struck.set()
        life.router.die()
        await asyncio.Event().wait()  # it is dead

    patch.setattr(RedisLog, "commit", commit)
    router, _ = life.start_router(), life.start_agent()
    await router.struck.wait()
    life.start_router()


@BOTH
async def test_a_commit_in_two_parts_is_noticed(
    exact_url: str, app: App, prefix: str, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events first, the entries that they cause after them: a router that dies in between has decided what
    nobody ever hears of."""
    async with held(exact_url, prefix, app) as life:
        await succeed_a_dying_router(
            monkeypatch,
            life,
            lambda commit: any(out.stream == f"work:{NODE}" for out in commit.outs),
            lambda commit: commit if guarded else structs.replace(commit, outs=()),
        )
        await eventually(life.caught_up, "the next router leads")
        if guarded:
            life.ollama.hold.set()
            await life.come_to_rest()
            await assert_promise(life)
        else:
            with pytest.raises(AssertionError, match="dispatches differ"):
                await assert_consistent(life.store)


@BOTH
async def test_a_cursor_outside_the_commit_is_noticed(
    exact_url: str, app: App, prefix: str, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursors and relayed tokens written after the commit, not with it: the router that follows one that
    died in between passes tokens on twice."""
    async with held(exact_url, prefix, app) as life:
        await succeed_a_dying_router(
            monkeypatch,
            life,
            lambda commit: any(name.startswith(RELAYED) for name in commit.set),
            lambda commit: commit if guarded else structs.replace(commit, set={}),
        )
        life.ollama.hold.set()
        await life.come_to_rest()
        if guarded:
            await assert_promise(life)
        else:
            with pytest.raises(AssertionError, match="missing or come twice"):
                await assert_promise(life)


@BOTH
async def test_a_run_that_is_repeated_is_noticed(
    exact_url: str, app: App, prefix: str, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that runs again what its former process had in hand begins one attempt twice."""
    begin = WorkerCore.__init__

    def forgetful(self: Any, *parts: Any) -> None:
        begin(self, *parts)
        self.restarted = False

    async with held(exact_url, prefix, app) as life:
        life.start_router()
        life.start_agent()
        await life.token()
        life.agent.die()
        if not guarded:
            monkeypatch.setattr(WorkerCore, "__init__", forgetful)
        life.ollama.hold.set()
        life.start_agent()
        if guarded:
            await life.come_to_rest()
            await assert_promise(life)
        else:
            await eventually(lambda: life.ollama.runs == 2, "the run once more")
            with pytest.raises(AssertionError, match=r"(ran|begun) twice"):
                await assert_no_attempt_twice(life, lost=False)


async def test_an_agent_that_misses_nothing_is_noticed(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that does not say how far its group goes: a run that was lost with the group before it was
    read takes its slot for ever, and its request has no end."""
    monkeypatch.setattr(WorkerCore, "drained", lambda self, work_id: None)
    work = f"{life.config.prefix}work:{NODE}"
    await life.agent.bury()
    await life.hand_out("q2")
    await life.redis.xgroup_destroy(work, GROUP)
    await eventually(lambda: life.redis.xinfo_groups(work), "the group is made anew")
    life.start_agent()
    await life.hear(20)  # with the guard three of them give it up
    assert life.router.router.state.grid.nodes[NODE].assignments
    assert await life.ends("q2") == []


async def test_a_group_made_from_the_beginning_is_noticed(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work group that was lost and is made anew at the stream's beginning hands out what ran before."""
    make_group = RedisLog.make_group

    async def from_the_beginning(self: Any, stream: str, after: str) -> bool:
        return await make_group(self, stream, "0-0")

    monkeypatch.setattr(RedisLog, "make_group", from_the_beginning)
    await life.agent.bury()
    await life.redis.xgroup_destroy(f"{life.config.prefix}work:{NODE}", GROUP)
    life.start_agent()
    await eventually(lambda: life.ollama.runs == 2, "the old run once more")
