"""The client while another server takes over: it waits, asks again, and misses nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from orion_streams import AsyncClient, BackendError, RequestTimeoutError
from orion_streams.client import streams_client as client_module
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.chaos.proxy import Proxy
from tests.contract.contract_grid import MODEL, Run, echo, running
from tests.helpers import eventually


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        ("REPLICAOF 127.0.0.1 9", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ],
)
async def test_a_server_that_takes_nothing_for_now_is_waited_for(
    tmp_path: Path, prefix: str, break_it: str, mend_it: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Demoted, without replicas, or full: the request is kept and answered; the control gives it up."""
    if not waits:
        monkeypatch.setattr(client_module, "will_pass", lambda error: not isinstance(error, ResponseError))
    with EmbeddedServer(tmp_path) as server:
        admin: Any = connect(server.url)
        await admin.execute_command(*break_it.split())
        errors = (await admin.info("stats"))["total_error_replies"]
        async with AsyncClient(server.url, prefix=prefix) as client:
            asked = asyncio.create_task(client.generate(MODEL, "kept"))

            async def met_it() -> bool:
                found: int = (await admin.info("stats"))["total_error_replies"]
                return asked.done() or found > errors

            await eventually(met_it, "the refusal")
            await admin.execute_command(*mend_it.split())
            if waits:
                async with running(server.url, prefix):
                    assert (await asked).text == "kept"
            else:
                with pytest.raises(BackendError):
                    await asked
        await admin.aclose()


@pytest.mark.parametrize("steps_back", [True, False])
async def test_a_reply_below_what_was_lost_is_heard(
    valkey_url: str, prefix: str, steps_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client steps back to the end of a stream that lost replies; the control waits for ever."""
    if not steps_back:
        monkeypatch.setattr(AsyncClient, "_stands", stands)
    released = asyncio.Event()
    key, high = f"{prefix}replies:brain", "99999999999999-0"

    async def script(run: Run) -> None:
        if run.prompt == "later":
            await released.wait()
        await echo(run)

    async with (
        running(valkey_url, prefix, script) as grid,
        Proxy(valkey_url) as proxy,
        AsyncClient(proxy.url, prefix=prefix, margin_s=1) as client,
    ):
        await client.generate(MODEL, "first")
        waiting = asyncio.create_task(client.generate(MODEL, "later", timeout_s=3))
        saved = await grid.redis.dump(key)
        await grid.redis.xadd(key, {"id": "lost", "kind": "token"}, id=high)
        await eventually(lambda: client._position == high.encode(), "the reply that will be lost")
        await grid.redis.restore(key, 0, saved, replace=True)
        assert proxy.cut() > 0
        if steps_back:
            await eventually(lambda: client._position != high.encode(), "a step back")
            released.set()
            assert (await waiting).text == "later"
        else:
            released.set()
            with pytest.raises(RequestTimeoutError):
                await waiting


@pytest.mark.parametrize("resends", [True, False])
async def test_a_request_that_the_new_server_never_got_is_sent_again(
    valkey_url: str, prefix: str, resends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged, lost and cut: the request comes again. The control sends once, and waits in vain."""
    if not resends:
        monkeypatch.setattr(AsyncClient, "_spawn", lambda _, work: work.close())
    async with Proxy(valkey_url) as proxy, AsyncClient(proxy.url, prefix=prefix, margin_s=1) as client:
        asked = asyncio.create_task(client.generate(MODEL, "x", id="lost", timeout_s=3))
        redis: Any = connect(valkey_url)
        await eventually(lambda: redis.exists(f"{prefix}requests:brain"), "the request was sent")
        await redis.delete(f"{prefix}requests:brain")
        assert proxy.cut() > 0
        await redis.aclose()
        async with running(valkey_url, prefix):
            if resends:
                assert (await asked).text == "x"
            else:
                with pytest.raises(RequestTimeoutError):
                    await asked


async def stands(_: AsyncClient) -> bool:
    """A client that never looks whether its last reply is still there."""
    return True
