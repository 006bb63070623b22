"""A whole grid under least-privilege users: it works, and the server has nothing to refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs
from redis.exceptions import AuthenticationError, NoPermissionError

from orion_streams import Answer, AsyncClient, Piece
from orion_streams.agents.router import Router
from orion_streams.client.calls import RequestRejectedError
from orion_streams.demo.observer import Observer
from orion_streams.demo.simulated_grid import EMBEDDER, GEMMA
from orion_streams.errors import BackendError
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.runtime.connection import connect
from orion_streams.runtime.server_check import check_server
from tests.cli.run_cli import run
from tests.conftest import SERVERS, ServerStore
from tests.helpers import MODEL, Agent, ask, kinds, settle, snapshots
from tests.security.guarded import ADMIN, Guarded, guarded
from tests.security.guarded_grids import GuardedGrid


@pytest.fixture(params=SERVERS)
async def grid(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GuardedGrid]:
    """Router, three agents, three simulated nodes, each process with its own user."""
    folder = tmp_path / "grid"
    folder.mkdir()
    async with GuardedGrid(request.param, folder) as started:
        yield started


async def test_a_request_is_answered_by_confined_roles(grid: GuardedGrid, tmp_path: Path) -> None:
    """Client, reader and `ask` each under their own user: nobody is refused, and default stays out."""
    async with AsyncClient(grid.url("orion-client-brain")) as brain:
        assert (await brain.generate(GEMMA.name, "Why?", id="q1", timeout_s=30)).text
        assert (await brain.embed(EMBEDDER.name, ["a"], timeout_s=30)).vectors
        heard = [event async for event in brain.stream(GEMMA.name, "Why?", timeout_s=30)]
        assert isinstance(heard[0], Piece)
        assert isinstance(heard[-1], Answer)
        again = await brain.generate(GEMMA.name, "Why?", id="q1", timeout_s=30)
        assert again.id == "q1"

    async def run_as(url: str, *words: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(lambda: run(tmp_path, *words, ORION_REDIS_URL=url))

    assert grid._server is not None
    async with connect(grid._server.url) as nobody:
        with pytest.raises(AuthenticationError):
            await nobody.ping()
    config = ("--config", str(grid.config_path))
    reads = "nodes, ps, models, plan, log, replay, explain q1, explain --last, requests, top --once"
    for words in map(str.split, reads.split(", ")):
        code, out, err = await run_as(grid.redis_url, *words, "--json", *config)
        assert (code, err) == (0, ""), words
        assert msgspec.json.decode(out)
    observer = connect(grid.url("orion-observer"))
    tally = await Observer(observer, "orion:", ["brain"], list(grid.nodes)).stop()
    assert (tally.lost, tally.duplicate_replies, tally.duplicate_dispatches) == (0, 0, 0)
    assert tally.answered == 3
    await observer.aclose()
    assert await grid.as_admin("ACL", "LOG", "100") == []
    cli, asked = grid.url("orion-client-cli"), ("ask", "Why?", "--json", *config)
    code, out, err = await run_as(cli, *asked, "--model", GEMMA.name)
    assert (code, msgspec.json.decode(out)["done_reason"]) == (0, "stop"), err
    code, out, err = await run_as(cli, *asked)
    assert (code, out) == (78, "")
    assert "--model" in err, "a client's user does not see which models there are"


async def test_the_owner_runs_every_command_of_a_person(grid: GuardedGrid, tmp_path: Path) -> None:
    """It asks, looks, cancels, drains, replays, exports and examines, and the server has nothing to refuse;
    whoever only asks, as the command line, drains nothing."""
    owner = grid.url("orion-owner")
    config = ("--config", str(grid.config_path))

    async def run_as_owner(*words: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(lambda: run(tmp_path, *words, *config, ORION_REDIS_URL=owner))

    code, out, err = await run_as_owner("ask", "Why?", "--json")
    assert (code, msgspec.json.decode(out)["done_reason"]) == (0, "stop"), err
    async with AsyncClient(owner, "owner") as client:
        assert await client.open_requests() == []
        with pytest.raises(RequestRejectedError, match="unknown_id"):
            await client.cancel_of("brain", "q9")
    one = f"owner/{msgspec.json.decode(out)['id']}"
    for words in PERSONS:
        code, out, err = await run_as_owner(*(one if each == "ID" else each for each in words))
        assert code == 0, (words, err)
    code, out, err = await run_as_owner("doctor", "--json")
    assert code in (0, 3), err
    assert "not looked at" not in out
    assert await grid.as_admin("ACL", "LOG", "100") == []
    cli = grid.url("orion-client-cli")
    code, _, err = await asyncio.to_thread(
        lambda: run(tmp_path, "drain", "orion-worker", *config, ORION_REDIS_URL=cli)
    )
    assert (code, "orion-client-cli may not run" in err) == (69, True), err
    async with AsyncClient(cli, "cli") as client:
        with pytest.raises(RequestRejectedError, match="not_allowed"):
            await client.drain("orion-worker")


PERSONS = (
    ("nodes",), ("models",), ("ps",), ("plan",), ("log",), ("explain", "ID"), ("requests",),
    ("top", "--once"), ("replay",), ("replay", "verify"), ("log", "export", "all.jsonl.gz"),
    ("log", "archive", "kept"), ("replay", "report", "-o", "report.html"),
    ("key", "add", "anna"), ("key", "list"), ("key", "rm", "anna"),
    ("drain", "orion-worker"), ("resume", "orion-worker"),
)  # fmt: skip
"""Each as typed; ID is a request's."""


@pytest.fixture(params=SERVERS)
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    """A server with all users, without processes."""
    with guarded(request.param, tmp_path / "data") as opened:
        yield opened


async def test_everything_the_router_does_is_allowed(held: Guarded) -> None:
    """Also snapshots, trims, groups, a SCRIPT FLUSH; a key of the house's own is refused."""
    limits = {"snapshot_events": 20, "log_keep_ms": 1, "replies_entries": 1}
    retention = structs.replace(held.config.retention, **limits)
    config = structs.replace(held.config, retention=retention)
    admin, own = connect(held.url(ADMIN)), connect(held.url("orion-router"))
    store, log = ServerStore("", admin, config.prefix), RedisLog(own, config.prefix)
    router, agent = Router(log, config), Agent(store, "orion-worker", (MODEL,))
    await check_server(own)
    await router.start()
    await router.make_groups()
    await router.look_for_losses()
    for number in range(10):
        await agent.beat()
        await ask(store, f"q{number}")
        await settle(router)
        while runs := await agent.read_work():
            await agent.say(runs[0], "tokens", b"4", seq=1)
            if number == 3:
                await agent.fail(runs[0], blame="request")
            else:
                await agent.complete(runs[0])
            await settle(router)
        await admin.script_flush()
        await router.retention.keep(router.state, router.guard)
        await router.retention.close()
    assert [(await kinds(store, f"q{number}"))[-1] for number in (3, 9)] == ["error", "done"]
    assert len(await snapshots(log)) >= 2
    assert await log.first_position() > 1
    await router.follow(1)
    await Router(log, config).start()
    assert held.admin.execute_command("ACL", "LOG") == []
    with pytest.raises(NoPermissionError):
        await own.set("bus", "x")
    assert len(held.admin.execute_command("ACL", "LOG")) == 1
    await admin.aclose()
    await own.aclose()


@contextlib.asynccontextmanager
async def answering(held: Guarded) -> AsyncIterator[None]:
    """A router and an agent that go on while the block runs."""
    admin, own = connect(held.url(ADMIN)), connect(held.url("orion-router"))
    store, log = ServerStore("", admin, held.config.prefix), RedisLog(own, held.config.prefix)
    router, agent = Router(log, held.config), Agent(store, "orion-worker", (MODEL,))
    await router.start()
    await router.make_groups()
    is_over = False

    async def serve() -> None:
        while not is_over:
            await agent.beat()
            await router.cycle(block_ms=200)
            for given in await agent.read_work():
                await agent.complete(given)

    serving = asyncio.create_task(serve())
    try:
        yield
    finally:
        is_over = True
        await serving
        await admin.aclose()
        await own.aclose()


async def test_everything_the_gateway_does_is_allowed(held: Guarded) -> None:
    """It adds a guest, asks as that and as itself, follows the log, looks at the server; no more."""
    url = held.url("orion-gateway")
    async with (
        answering(held),
        AsyncClient(url, "gateway") as gateway,
        AsyncClient(url, "key-anna") as anna,
        AsyncClient(url, "brain") as brain,
        AsyncClient(held.url("orion-client-brain"), "gateway") as stranger,
        AsyncClient(held.url("orion-client-brain"), "key-anna") as thief,
    ):
        await gateway.add_guest("key-anna")
        assert (await anna.generate(MODEL, "Why?", timeout_s=30)).text == "42"
        assert (await gateway.generate(MODEL, "Why?", timeout_s=30)).text == "42"
        async with connect(url) as reader:
            await check_server(reader)
            state = await load(RedisLog(reader, held.config.prefix))
        assert list(state.grid.guests) == ["key-anna"]
        assert held.admin.execute_command("ACL", "LOG") == []
        with pytest.raises(BackendError, match="redis refuses"):
            await stranger.add_guest("key-evil")
        for other in (thief, brain):
            with pytest.raises(BackendError, match="redis refuses"):
                await other.generate(MODEL, "Why?")
        await gateway.remove_guest("key-anna")
