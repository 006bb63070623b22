"""Negative controls: with a guard removed, the check of the invariant that it protects must fail."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from redis.exceptions import ResponseError

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog import redis_log as log_module
from orion_streams.eventlog.loader import load
from orion_streams.model.commit import CURSOR, Expected, OutEntry
from orion_streams.protocol import admission, ingest
from tests.conftest import ServerStore
from tests.eventlog import test_router as intact
from tests.eventlog import test_two_routers as intact_pair
from tests.eventlog.driving import WORKER, another, running
from tests.helpers import (
    Agent,
    Store,
    ask,
    assert_consistent,
    assert_tokens_rise,
    expected_next,
    history,
    make_commit,
    replies,
    settle,
)


def without(monkeypatch: pytest.MonkeyPatch, *guards: tuple[str, str]) -> None:
    """Take parts out of the commit script; each must be there."""
    script = log_module.SCRIPT
    for part, instead in guards:
        assert part in script, f"the script has no {part!r}"
        script = script.replace(part, instead)
    monkeypatch.setattr(log_module, "SCRIPT", script)


def patched(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, part: str, instead: str
) -> None:
    """Change a function of a module by its source; the part must be there."""
    source = inspect.getsource(getattr(module, name))
    assert part in source, f"{name} has no {part!r}"
    scope: dict[str, object] = {}
    exec(source.replace(part, instead), module.__dict__, scope)
    monkeypatch.setattr(module, name, scope[name])


NUMBER = "(held[1] or '0') ~= string.format('%.0f', expected[1])"
TOKEN = "(held[2] or '') ~= expected[2]"
POSITION = "position ~= string.format('%.0f', expected[3])"


async def two_routers_relay(store: ServerStore, config: Config) -> None:
    """Two routers that both saw the same tokens pass them on, one after the other."""
    agent = Agent(store, WORKER)
    first = await running(store, config, agent)
    await ask(store, "q1")
    await settle(first)
    second = await another(store, config)
    [run] = await agent.read_work()
    await agent.say(run, "tokens", b"4", seq=1)
    for router in (first, second):
        store.skip(5)  # else output ids of the same millisecond are refused before the guard is asked
        await router.cycle(0)
        await router.cycle(0)
    assert_tokens_rise(await replies(store))


async def test_without_number_and_token_tokens_come_twice(
    server_store: ServerStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: a token reaches the client once. Two routers keep it by this check alone."""
    await two_routers_relay(server_store, config)
    for key in await server_store.dump():
        await server_store.drop(key)
    without(monkeypatch, (NUMBER, "false"), (TOKEN, "false"))
    with pytest.raises(AssertionError, match="token 1/1 of q1 after"):
        await two_routers_relay(server_store, config)


async def test_without_the_token_a_rewritten_tail_is_continued(
    server_store: ServerStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: the log's running hash holds. By the number alone a router that slept would slip in."""
    without(monkeypatch, (TOKEN, "false"))
    with pytest.raises((AssertionError, LogError), match=r"assert|running hash"):
        await intact_pair.test_a_slept_through_rewritten_tail_is_noticed(server_store, config)
    with pytest.raises(LogError, match="running hash"):
        await load(server_store.log)


async def test_without_the_position_the_log_goes_on_after_a_hole(
    server_store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: positions are gapless. Unchecked, a commit would go on after a log that was lost."""
    without(monkeypatch, (POSITION, "false"))
    await server_store.log.commit(make_commit(events=(b"one", b"two")))
    expected = await expected_next(server_store.log)
    await server_store.drop("log")
    await server_store.log.commit(make_commit(expected, events=(b"three",)))
    with pytest.raises(LogError, match="gap"):
        await server_store.log.events(0, 10)


async def test_without_all_three_two_routers_lose_events(
    server_store: ServerStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: a request is dispatched once. Without any check, and with ids left to the server, the
    two routers of the competition dispatch twice and break the log."""
    without(
        monkeypatch,
        (NUMBER, "false"),
        (TOKEN, "false"),
        (POSITION, "false"),
        ("string.format('%.0f-0', expected[3] + i)", "string.format('%.0f-0', position + i)"),
        ("if not id_above(id, top) then", "if false then"),
        ("if not seen[key] and", "if false and"),
        ("redis.call('XADD', KEYS[out[1]], out[2],", "redis.call('XADD', KEYS[out[1]], '*',"),
    )
    agent = Agent(server_store, WORKER)
    first = await running(server_store, config, agent)
    second = await another(server_store, config)
    await ask(server_store, "q1")
    await first.cycle(0)
    await second.cycle(0)
    assert len(await server_store.entries(f"work:{WORKER}")) == 2
    with pytest.raises((AssertionError, LogError), match=r"running hash|diverged|accepted while open"):
        await assert_consistent(server_store)


async def test_without_cursors_in_the_commit_inputs_are_taken_again(
    server_store: ServerStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: every entry is taken once. A router that starts anew takes them again."""
    without(monkeypatch, ("if #set > 0 then redis.call('HSET', guard, unpack(set)) end", ""))
    agent = Agent(server_store, WORKER)
    for _ in range(2):
        await agent.beat()
        router = Router(server_store.another(), config)
        await router.start()
    sampled = [e for e in await history(server_store.log) if type(e).__name__ == "NodeSampled"]
    assert agent.beats == 2
    assert len(sampled) == 3


TYPE, TOP = "if not has_type(KEYS[i], 'stream') then", "if not seen[key] and"
NO_TYPE, NO_TOP = (TYPE, "if false then"), (TOP, "if false and")
NO_ID = ("if not id_above(id, top) then", "if false then")
HALVES = {
    "type": ((NO_TYPE, NO_TOP), OutEntry("replies:brain", "101-0", {"kind": "done"})),
    "id": ((NO_ID,), OutEntry("work:n2", "100-0", {"head": "run"})),
    "top": ((NO_TOP,), OutEntry("work:n1", "101-0", {"head": "run"})),
}


@pytest.mark.parametrize("guard", HALVES)
async def test_without_a_check_a_refusal_leaves_half_a_commit(
    server_store: ServerStore, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """Invariant: a refused commit wrote nothing. Scripts do not roll back, so each check comes first."""
    removed, bad = HALVES[guard]
    without(monkeypatch, *removed)
    await server_store.add("work:n1", {"head": "run"}, "500-0")
    await server_store.redis.set(server_store.prefix + "replies:brain", "a string")
    outs = (OutEntry("work:n2", "100-0", {"head": "run"}), bad)
    commit = make_commit(events=(b"x",), outs=outs, set={CURSOR + "health:n1": "1-0"})
    before = await server_store.dump()
    with pytest.raises(ResponseError):
        await server_store.log.commit(commit)
    assert await server_store.dump() != before
    assert await expected_next(server_store.log) == Expected(position=1)


async def test_without_the_body_check_a_run_goes_out_empty(
    server_store: ServerStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: no node gets a run without its prompt. Unchecked, a deleted body would be dispatched."""
    without(monkeypatch, ("elseif out[7] then", "elseif false then"))
    agent = Agent(server_store, WORKER)
    router = await running(server_store, config, agent)
    await ask(server_store, "q1")
    await settle(router)
    lost = await ask(server_store, "q2")
    await settle(router)
    await server_store.delete("requests:brain", lost)
    [run] = await agent.read_work()
    await agent.complete(run)
    await settle(router)
    _, fields = (await server_store.entries(f"work:{WORKER}"))[-1]
    assert b"prompt" not in fields


async def test_without_the_fence_an_old_attempt_answers(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: only the current attempt answers, and tokens of two attempts never mix."""
    patched(
        monkeypatch,
        ingest,
        "take_result",
        "if request is None or request.work_id != head.work_id or request.node != entry.owner:",
        "if request is None:",
    )
    with pytest.raises(AssertionError):
        await intact.test_tokens_are_relayed_once_and_fenced(store, config)
    with pytest.raises(AssertionError, match="answered by an old attempt"):
        await assert_consistent(store)


async def test_without_the_relayed_marks_resent_tokens_pass(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: a token reaches the client once. Without the marks an agent's resend comes through."""
    patched(
        monkeypatch, ingest, "take_result", "if head.seq != relayed.get(head.work_id, 0) + 1:", "if False:"
    )
    with pytest.raises(AssertionError):
        await intact.test_tokens_are_relayed_once_and_fenced(store, config)
    with pytest.raises(AssertionError, match="token 1/1 of q1 after"):
        assert_tokens_rise(await replies(store))


async def test_without_known_ids_a_resend_runs_again(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: one id, one run. Without the look at known ids a resent request is routed again."""
    patched(
        monkeypatch,
        admission,
        "admit",
        "if key in grid.open or grid.find_closed(key) is not None:",
        "if False:",
    )
    with pytest.raises(AssertionError):
        await intact.test_a_resent_id_starts_nothing(store, config)
    with pytest.raises(AssertionError, match="accepted while open"):
        await assert_consistent(store)
