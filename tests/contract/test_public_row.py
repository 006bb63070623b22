"""The grid's public row: who is read, and whether anybody looks. A hint, without which everything works."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from orion_streams import AsyncClient, RequestRejectedError
from orion_streams.protocol.public_row import PublicRow, read_row
from orion_streams.runtime.connection import connect
from tests.contract.contract_grid import MODEL, running
from tests.helpers import eventually


def test_a_row_is_read_as_it_was_written() -> None:
    """What nobody can read is no row."""
    row = PublicRow(("brain", "cli"), 3, 1_800_000_000_000)
    fields = {name.encode(): value.encode() for name, value in row.fields().items()}
    assert read_row(fields) == row
    for broken in ({}, {**fields, b"looked_ms": b"soon"}, {**fields, b"clients": b"\xff"}):
        assert read_row(broken) is None
    assert read_row({**fields, b"of_tomorrow": b"1"}) == row


async def test_a_client_that_nobody_reads_is_told_at_once(valkey_url: str, prefix: str) -> None:
    """By name, with the names that are read, and what to do; the id stays unused. Others are served."""
    async with (
        running(valkey_url, prefix) as some,
        AsyncClient(valkey_url, "kitchen", prefix=prefix) as kitchen,
        AsyncClient(valkey_url, prefix=prefix) as brain,
    ):
        await eventually(lambda: some.redis.exists(f"{prefix}grid"), "the row")
        for _ in range(2):
            with pytest.raises(
                RequestRejectedError, match=r"kitchen is no client .*known: brain.*\[clients.k"
            ):
                await kitchen.generate(MODEL, "Tea?")
        assert not await some.redis.exists(f"{prefix}requests:kitchen")
        assert (await brain.generate(MODEL, "Why?")).text == "Why?"


@pytest.mark.parametrize(("silent_ms", "warned"), [(9_000, False), (12_000, True)])
async def test_a_silent_router_is_a_warning(
    valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture, silent_ms: int, warned: bool
) -> None:
    """By the server's clock; the request waits all the same."""
    redis: Any = connect(valkey_url)
    seconds, micros = await redis.time()
    looked_ms = seconds * 1000 + micros // 1000 - silent_ms
    await redis.hset(f"{prefix}grid", mapping=PublicRow(("brain",), 1, looked_ms).fields())
    with caplog.at_level(logging.WARNING, "orion.client"):
        async with AsyncClient(valkey_url, prefix=prefix, margin_s=0.2) as brain:
            with pytest.raises(Exception, match="no end after"):
                await brain.generate(MODEL, "Why?", timeout_s=0.2)
    assert ("no router has looked for requests for 12 s" in caplog.text) is warned
    assert await redis.xlen(f"{prefix}requests:brain") >= 1
    await redis.aclose()


async def test_an_old_row_refuses_nobody(valkey_url: str, prefix: str) -> None:
    """The router that wrote it may have been stopped to let a client in."""
    redis: Any = connect(valkey_url)
    await redis.hset(f"{prefix}grid", mapping=PublicRow(("brain",), 1, 1).fields())
    async with AsyncClient(valkey_url, "kitchen", prefix=prefix, margin_s=0.2) as kitchen:
        with pytest.raises(Exception, match="no end after"):
            await kitchen.generate(MODEL, "Tea?", timeout_s=0.2)
    await redis.aclose()


@pytest.mark.parametrize("theirs", [False, True])
async def test_without_a_row_nothing_changes(valkey_url: str, prefix: str, theirs: bool) -> None:
    """A router of an older version writes none; a key of another type is no row either."""
    async with running(valkey_url, prefix) as some, AsyncClient(valkey_url, prefix=prefix) as brain:

        async def quiet(server_ms: int) -> None:
            """Announce nothing."""

        some.router.announce = quiet  # type: ignore[method-assign]
        await some.redis.delete(f"{prefix}grid")
        if theirs:
            await some.redis.set(f"{prefix}grid", "theirs")
        assert (await brain.generate(MODEL, "Why?")).text == "Why?"
