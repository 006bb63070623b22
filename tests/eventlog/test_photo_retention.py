"""Parts of images leave nothing behind, and nothing goes that an open request still needs."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.eventlog.redis_log import FREED_BYTES, RedisLog
from orion_streams.model.policy import ClientRules
from orion_streams.protocol.photo_parts import PARTS_WAIT_MS
from orion_streams.runtime.connection import connect
from tests.eventlog.driving import MASTER, WORKER, running
from tests.helpers import Agent, Store, ask, kinds, settle

NOBODY_HAS = {"model": "nobody-known:1b"}


async def part(store: Store, text: str = "x" * 5_000) -> str:
    """A part; its id. It is too large to share the server's node with another."""
    return await store.add("parts:brain", {"data": text})


async def left(store: Store) -> list[str]:
    """The parts that are there."""
    return [entry_id for entry_id, _ in await store.entries("parts:brain")]


async def keep(router: Router) -> None:
    """One round of retention."""
    await router.retention.keep(router.state, router.guard)


def refers(*parts: str) -> dict[str, str]:
    """What a request says of its parts."""
    return {"images": '["parts:0-4"]', "parts": json.dumps(parts)}


async def test_an_upload_that_was_cut_off_leaves_nothing_behind(store: Store, config: Config) -> None:
    """Parts without a request stay for PARTS_WAIT_MS by the server's clock, and then go."""
    router = await running(store, config, Agent(store, WORKER))
    cut_off = [await part(store) for _ in range(3)]
    store.skip(PARTS_WAIT_MS - 5_000)
    await keep(router)
    assert await left(store) == cut_off
    store.skip(6_000)
    await keep(router)
    assert await left(store) == []


async def test_parts_of_an_open_request_stay_and_go_with_it(store: Store, config: Config) -> None:
    """However long it waits; when it has ended they are gone at once, and those of others are not."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    waiting, other = [await part(store), await part(store)], await part(store)
    await ask(store, "waiting", **NOBODY_HAS, **refers(*waiting))
    await ask(store, "other", **NOBODY_HAS, **refers(other))
    await settle(router)
    store.skip(3 * PARTS_WAIT_MS)
    await agent.beat()
    await settle(router)
    await keep(router)
    assert await left(store) == [*waiting, other]
    await store.add("requests:brain", {"cancel": "waiting"})
    await settle(router)
    assert await left(store) == [other]


async def test_parts_that_another_open_request_names_stay(store: Store, config: Config) -> None:
    """The end of one request takes nothing from the other."""
    router = await running(store, config, Agent(store, WORKER))
    shared = await part(store)
    for request_id in ("one", "two"):
        await ask(store, request_id, **NOBODY_HAS, **refers(shared))
    await settle(router)
    await store.add("requests:brain", {"cancel": "one"})
    await settle(router)
    assert await left(store) == [shared]
    await store.add("requests:brain", {"cancel": "two"})
    await settle(router)
    assert await left(store) == []


async def test_a_rejected_request_leaves_no_parts(store: Store, config: Config) -> None:
    """Whoever asks again and again where there is no room does not fill the server."""
    few = structs.replace(config, clients={**config.clients, "brain": ClientRules(max_open=1)})
    router = await running(store, few, Agent(store, WORKER))
    kept, refused = await part(store), await part(store)
    await ask(store, "kept", **NOBODY_HAS, **refers(kept))
    await ask(store, "refused", **NOBODY_HAS, **refers(refused))
    await settle(router)
    assert await kinds(store, "refused") == ["rejected"]
    assert await left(store) == [kept]


@pytest.mark.parametrize("waits", [True, False])
async def test_parts_of_a_request_that_nobody_has_read_stay(
    store: Store, config: Config, waits: bool
) -> None:
    """After an outage of all routers an entry that waits still has its parts; without one (the control)
    they go."""
    router = await running(store, config, Agent(store, WORKER))
    first = await ask(store, "first", **NOBODY_HAS)
    await settle(router)
    assert router.guard.cursors["requests:brain"] == first
    parts = [await part(store)]
    if waits:
        await ask(store, "late", **NOBODY_HAS, **refers(*parts))
    store.skip(5 * PARTS_WAIT_MS)
    await keep(router)
    assert await left(store) == (parts if waits else [])


@pytest.mark.parametrize("much", [True, False])
async def test_a_client_that_floods_loses_its_oldest_parts(
    store: Store, config: Config, caplog: pytest.LogCaptureFixture, much: bool
) -> None:
    """Above twice what it may have open, whoever needs them; below that (the control) nothing goes."""
    rules = ClientRules(max_open_bytes=30_000 if much else 600_000)
    router = await running(
        store, structs.replace(config, clients={**config.clients, "brain": rules}), Agent(store, MASTER)
    )
    parts = [await part(store) for _ in range(40)]
    with caplog.at_level(logging.WARNING, "orion.retention"):
        await keep(router)
    kept = await left(store)
    assert kept == (parts[-len(kept) :] if much else parts)
    assert len(kept) > 0
    assert (len(kept) <= 12) == much
    assert ("parts:brain" in caplog.text) == much


async def test_the_router_never_reads_a_part(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its reads nor its memory know what stands in them: nothing that it is given names a part's
    text."""
    agent = Agent(store, WORKER)
    router = await running(store, config, agent)
    secret = "aGVycmluZw" * 1_000
    await ask(store, "q", **refers(await part(store, secret)))
    seen: list[str] = []
    read = store.log.read

    async def watched(cursors, count, block_ms):  # type: ignore[no-untyped-def]
        server_ms, found = await read(cursors, count, block_ms)
        seen.extend(repr(raw) for raw in found)
        return server_ms, found

    monkeypatch.setattr(store.log, "read", watched)
    await settle(router)
    [run] = await agent.read_work()
    await agent.complete(run)
    await settle(router)
    await keep(router)
    assert await kinds(store, "q") == ["done"]
    assert any("parts:0-4" in each for each in seen)
    assert not any("aGVycmluZw" in each for each in seen)
    assert await left(store) == []


async def test_a_trim_frees_little_at_a_time(valkey_url: str, prefix: str) -> None:
    """64 MB in large entries go in calls of some of them each, and small ones all the same; the server's
    log of commands is the witness."""
    redis: Any = connect(valkey_url)
    store = RedisLog(redis, prefix)
    for stream, entries, size in (("parts:brain", 256, 250_000), ("requests:brain", 2_000, 20)):
        pipe = redis.pipeline(transaction=False)
        for n in range(1, entries + 1):
            pipe.xadd(prefix + stream, {"data": b"x" * size}, id=f"{n}-0")
        await pipe.execute()
        await redis.config_resetstat()
        await store.trim(stream, f"{entries + 1}-0")
        calls = (await redis.info("commandstats"))["cmdstat_xtrim"]["calls"]
        assert await redis.xlen(prefix + stream) < 100
        assert calls >= entries * size // FREED_BYTES
        assert calls < 40
    await redis.delete(f"{prefix}parts:brain", f"{prefix}requests:brain")
    await redis.aclose()
