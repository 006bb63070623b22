"""Each guard that the lives of this folder rely on is removed, and the same lives must notice."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.worker_core import WorkerCore
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.commit import GROUP, Commit
from orion_streams.runtime.faust_redis import App
from tests.crash.life import BOUND_S, Life, Plan
from tests.crash.mortal import mortality
from tests.crash.roles import NODE
from tests.crash.test_points import sweep
from tests.helpers import eventually

BROKEN = r"rest|differ|missing or come twice|not the answer|live state|of two runs|ran twice|begun twice"
"""The invariants of a life by their words; which of them shows first is a matter of moments."""


async def sweeps(url: str, app: App, victim: str) -> None:
    """Lives with a kill at every await, again and again: a gap of one await may pass without harm."""
    for _ in range(10):
        await sweep(url, app, Plan("answered"), victim, "kill")


async def test_a_commit_in_two_parts_is_noticed(
    exact_url: str, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events first, the entries that they cause after them: a router that dies in between breaks the
    promise."""
    whole = RedisLog.commit

    async def in_parts(self: Any, commit: Commit) -> None:
        await whole(self, structs.replace(commit, outs=()))
        for out in commit.outs:
            fields: dict[Any, Any] = dict(out.fields)
            if body := out.body:
                rows = await self._redis.xrange(self.key(body.stream), body.entry_id, body.entry_id)
                fields |= {k: v for k, v in rows[0][1].items() if k.decode() in body.names}
            await self._redis.xadd(self.key(out.stream), fields, id=out.id)

    monkeypatch.setattr("tests.crash.life.BOUND_S", 1.0)
    monkeypatch.setattr(RedisLog, "commit", in_parts)
    with pytest.raises(AssertionError, match=BROKEN):
        await sweeps(exact_url, app, "router")


async def test_a_run_that_is_repeated_is_noticed(
    exact_url: str, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that runs again what its former process had in hand: pieces of two runs in one attempt, or
    one begun twice."""
    begin = WorkerCore.__init__

    def forgetful(self: Any, *parts: Any) -> None:
        begin(self, *parts)
        self.restarted = False

    monkeypatch.setattr(WorkerCore, "__init__", forgetful)
    with pytest.raises(AssertionError, match=BROKEN):
        await sweeps(exact_url, app, "agent")


async def test_a_cursor_outside_the_commit_is_noticed(
    exact_url: str, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursors and relayed tokens written after the commit, not with it: a router that dies in between
    passes tokens on twice."""
    whole = RedisLog.commit

    async def in_parts(self: Any, commit: Commit) -> None:
        await whole(self, structs.replace(commit, set={}))
        if commit.set:
            await self._redis.hset(self.key("guard"), mapping=commit.set)

    monkeypatch.setattr(RedisLog, "commit", in_parts)
    with pytest.raises(AssertionError, match=BROKEN):
        await sweeps(exact_url, app, "router")


async def test_an_agent_that_misses_nothing_is_noticed(
    exact_url: str, app: App, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that does not say how far its group goes: a run that was lost with the group before it was
    read takes its slot for ever, and its request has no end."""
    monkeypatch.setattr("orion_streams.agents.apps.KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(WorkerCore, "drained", lambda self, work_id: None)
    life = Life(exact_url, prefix, Plan("answered"), app)
    with mortality():
        await life.ask()
        life.start_router()
        life.start_agent()
        await eventually(life.rests, "the answer", BOUND_S)
        await life.agent.bury()
        await life.hand_out("q2")
        await life.redis.xgroup_destroy(f"{prefix}work:{NODE}", GROUP)

        async def made_anew() -> bool:
            return bool(await life.redis.xinfo_groups(f"{prefix}work:{NODE}"))

        await eventually(made_anew, "the group is made anew", BOUND_S)
        life.start_agent()
        await life.hear(20)  # with the guard three of them give it up
        assert list(life.router.router.state.grid.nodes[NODE].assignments)
        assert await life.ends("q2") == []
        await life.close()


async def test_a_group_made_from_the_beginning_is_noticed(
    exact_url: str, app: App, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work group that was lost and is made anew at the stream's beginning hands out what ran before."""
    monkeypatch.setattr("orion_streams.agents.apps.KEEP_EVERY_S", 0.0)
    make_group = RedisLog.make_group

    async def from_the_beginning(self: Any, stream: str, after: str) -> bool:
        return await make_group(self, stream, "0-0")

    monkeypatch.setattr(RedisLog, "make_group", from_the_beginning)
    life = Life(exact_url, prefix, Plan("answered"), app)
    with mortality():
        await life.ask()
        life.start_router()
        life.start_agent()
        await eventually(life.rests, "the answer", BOUND_S)
        await life.agent.bury()
        await life.redis.xgroup_destroy(f"{prefix}work:{NODE}", GROUP)
        life.start_agent()

        async def again() -> bool:
            return life.ollama.runs == 2

        await eventually(again, "the old run once more", BOUND_S)
        await life.close()
