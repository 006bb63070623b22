"""Photos through a whole grid: by hand, and by our client, which writes parts without being told."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orion_streams import AsyncClient, Client, RequestFailedError, RequestRejectedError
from orion_streams.agents.part_reader import PartReader
from orion_streams.client import upload
from orion_streams.model import events as ev
from orion_streams.model.state import client_of
from orion_streams.protocol import photo_parts, requests_replies
from orion_streams.protocol.photo_parts import MAX_BYTES, PART_BYTES
from tests.chaos.proxy import Proxy
from tests.contract.contract_grid import MODEL, Grid, Run, connected, count, running, silence
from tests.gateway.gateway_stage import gateway
from tests.helpers import eventually

PHOTO = "iVBORw0KGgo" * 40_000
"""Larger than a part, smaller than two."""


async def look(run: Run) -> None:
    """Answer with the size of each image, as the real agent sees them."""
    entry = requests_replies.parse_request(run.fields)
    reader = PartReader(run.agent._redis, lambda kind, name: f"{run.agent._prefix}{kind}:{name}")
    try:
        seen = await reader.whole(entry, client_of(run.head.request))
    except Exception as error:  # as the worker does
        await run.fail(error.code, error.blame, str(error))  # type: ignore[attr-defined]
        return
    images = requests_replies.images_of(seen)
    await run.done(" ".join(f"{len(image)}:{image[:11]}{image[-11:]}" for image in images))


def seen_as(*images: str) -> str:
    """What `look` says of images."""
    return " ".join(f"{len(image)}:{image[:11]}{image[-11:]}" for image in images)


async def parts_of(grid: Grid) -> int:
    """How many parts are there."""
    return int(await grid.redis.xlen(f"{grid.prefix}parts:brain"))


async def part(grid: Grid, data: str) -> str:
    """Write a part by hand; its id."""
    added: bytes = await grid.redis.xadd(f"{grid.prefix}parts:brain", {"data": data})
    return added.decode()


async def test_a_photo_is_sent_by_hand(valkey_url: str, prefix: str) -> None:
    """XADD of its parts, then of the request: it is seen whole, and afterwards nothing is left of it, nor
    in the log."""
    async with running(valkey_url, prefix, look) as grid:
        parts = [await part(grid, PHOTO[:PART_BYTES]), await part(grid, PHOTO[PART_BYTES:])]
        await grid.ask("q2", images=json.dumps([f"parts:0-{len(PHOTO)}"]), parts=json.dumps(parts))
        [end] = await grid.ends("q2")
        assert (end["kind"], end["text"]) == ("done", seen_as(PHOTO))
        await eventually(lambda: none_left(grid), "no parts")
        assert PHOTO[:44] not in str(await grid.redis.xrange(f"{prefix}log"))
        assert PHOTO[:44] not in str(await grid.redis.xrange(f"{prefix}work:one"))


async def none_left(grid: Grid) -> bool:
    """Whether no part is left."""
    return await parts_of(grid) == 0


async def test_parts_that_are_gone_are_told_and_tried_once(valkey_url: str, prefix: str) -> None:
    """One error with its code and which part; no second node is asked, and the id is used."""
    async with running(valkey_url, prefix, look) as grid:
        lost = await part(grid, PHOTO[:PART_BYTES])
        await grid.redis.xdel(f"{prefix}parts:brain", lost)
        await grid.ask("gone", images='["parts:0-4"]', parts=json.dumps([lost]))
        [end] = await grid.ends("gone")
        assert (end["kind"], end["code"]) == ("error", "parts_gone")
        assert lost in end["message"]
        assert len(grid.runs) == 1


async def test_the_client_sends_photos_by_itself(valkey_url: str, prefix: str) -> None:
    """In a prompt and in messages, several in one request; small ones go in the entry, and nothing is left
    of large ones."""
    async with connected(valkey_url, prefix, look) as (grid, brain):
        answer = await brain.generate(MODEL, "what?", images=[PHOTO, "aGk="])
        assert answer.text == seen_as(PHOTO, "aGk=")
        assert answer.ignored == ""
        messages = [{"role": "user", "content": "and?", "images": [PHOTO, PHOTO]}]
        assert (await brain.chat(MODEL, messages)).text == seen_as(PHOTO, PHOTO)
        await eventually(lambda: none_left(grid), "no parts")
        before = await added(grid)
        assert (await brain.generate(MODEL, "small?", images=["aGk="])).text == seen_as("aGk=")
        assert await added(grid) == before == 6
        largest = max(len(str(run.fields)) for run in grid.runs)
        assert largest < 2_000


async def added(grid: Grid) -> int:
    """How many parts were ever written."""
    return int((await grid.redis.xinfo_stream(f"{grid.prefix}parts:brain"))["entries-added"])


async def test_the_blocking_client_does_so_too(valkey_url: str, prefix: str) -> None:
    """The same, from a thread without an event loop."""
    async with running(valkey_url, prefix, look):

        def ask() -> str:
            with Client(valkey_url, prefix=prefix) as brain:
                return brain.generate(MODEL, "what?", images=[PHOTO]).text

        assert await asyncio.to_thread(ask) == seen_as(PHOTO)


async def test_a_photo_of_megabytes_comes_through_the_gateway(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """A program that knows nothing of parts posts 5 MB in one body: it is seen whole."""
    photo = "iVBORw0KGgoA" * 420_000
    async with gateway(valkey_url, prefix, tmp_path, look) as stage:
        message = {"role": "user", "content": "what?", "images": [photo]}
        body = json.dumps({"model": MODEL, "messages": [message], "stream": False}).encode()
        answer = await stage.http.post(f"{stage.url}/api/chat", data=io.BytesIO(body))
        assert answer.status == 200
        assert (await answer.json())["message"]["content"] == seen_as(photo)
        added = await stage.grid.redis.xinfo_stream(f"{prefix}parts:gateway")
        assert added["entries-added"] == 20


async def test_two_clients_at_once_mix_nothing(valkey_url: str, prefix: str) -> None:
    """Each of ten requests of two processes sees its own photo."""
    async with (
        connected(valkey_url, prefix, look) as (grid, one),
        AsyncClient(valkey_url, prefix=prefix) as two,
    ):
        photos = [chr(ord("a") + n) * (PART_BYTES + n) for n in range(10)]
        asked = [(one, two)[n % 2].generate(MODEL, "?", images=[photo]) for n, photo in enumerate(photos)]
        answers = await asyncio.gather(*asked)
        assert [answer.text for answer in answers] == [seen_as(photo) for photo in photos]
        await eventually(lambda: none_left(grid), "no parts")


async def test_too_large_is_one_error_before_anything_is_written(valkey_url: str, prefix: str) -> None:
    """More than 8 MiB in all: the client says so, and neither parts nor a request are there."""
    async with connected(valkey_url, prefix) as (grid, brain):
        with pytest.raises(RequestRejectedError, match="at most 8,388,608") as caught:
            await brain.generate(MODEL, "?", images=["a" * MAX_BYTES, "aGk="])
        assert caught.value.code == "too_large"
        assert await grid.redis.exists(f"{prefix}parts:brain", f"{prefix}requests:brain") == 0


async def test_a_client_may_have_so_many_bytes_of_photos_open(valkey_url: str, prefix: str) -> None:
    """Parts count: 64 MB have room for seven requests of 8 MiB; the eighth is told `queue_full`, and its
    parts are gone."""
    async with running(valkey_url, prefix, silence) as grid:
        for n in range(8):
            parts = [await part(grid, "a") for _ in range(32)]
            await grid.ask(f"q{n}", images='["parts:0-4"]', parts=json.dumps(parts))
        [end] = await grid.ends("q7")
        assert (end["kind"], end["code"]) == ("rejected", "queue_full")
        await eventually(lambda: holds(grid, 7 * 32), "the parts of the others")
        for n in range(7):
            await grid.send({"cancel": f"q{n}"})
        await eventually(lambda: none_left(grid), "no parts")


async def holds(grid: Grid, number: int) -> bool:
    """Whether so many parts are left."""
    return await parts_of(grid) == number


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5])
async def test_lost_answers_have_one_effect(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """Cut after an XADD was applied and before its answer, of a part or of the request, however often: one
    effect, one answer, the whole photo. (Small parts: the proxy looks at single packets.)"""
    monkeypatch.setattr(photo_parts, "INLINE_BYTES", 100)
    monkeypatch.setattr(photo_parts, "PART_BYTES", 5_000)
    photo = PHOTO[:12_345]
    async with running(valkey_url, prefix, look) as grid, Proxy(valkey_url) as proxy:
        proxy.lose_answers = lost
        async with AsyncClient(proxy.url, prefix=prefix) as brain:
            answer = await brain.generate(MODEL, "once", images=[photo], id="safe")
        assert await count(grid, ev.RequestAccepted) == 1
        assert (answer.text, len(grid.runs)) == (seen_as(photo), 1)
        kinds = Counter(reply["kind"] for reply in await grid.ends("safe"))
        assert kinds["done"] == 1
        assert set(kinds) <= {"done", "known"}
    assert proxy.lost == lost


@pytest.mark.parametrize("looks", [True, False])
async def test_a_resend_writes_parts_again_that_are_gone(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """The server lost the request and its parts, as after a failover: what is sent again can be answered.
    A client that does not look (the control) sends a request whose parts are gone."""
    if not looks:

        async def stands(*_: Any) -> bool:
            return True

        monkeypatch.setattr(upload.Upload, "_stands", stands)
    async with Proxy(valkey_url) as proxy, AsyncClient(proxy.url, prefix=prefix) as brain:
        redis: Any = brain._redis
        asked = asyncio.create_task(brain.generate(MODEL, "?", images=[PHOTO], id="again"))
        await eventually(lambda: redis.xlen(f"{prefix}requests:brain"), "it was sent")
        await redis.delete(f"{prefix}requests:brain", f"{prefix}parts:brain")
        proxy.cut()
        async with running(valkey_url, prefix, look) as grid:
            if looks:
                assert (await asked).text == seen_as(PHOTO)
            else:
                with pytest.raises(RequestFailedError, match="parts_gone"):
                    await asked
            assert len(grid.runs) == 1
            await grid.redis.delete(f"{prefix}parts:brain")


async def test_a_resend_of_parts_that_stand_writes_no_others(valkey_url: str, prefix: str) -> None:
    """Cut after cut: the request goes again, its photo does not."""
    async with (
        running(valkey_url, prefix, silence) as grid,
        Proxy(valkey_url) as proxy,
        AsyncClient(proxy.url, prefix=prefix) as brain,
    ):
        asked = asyncio.create_task(brain.generate(MODEL, "?", images=[PHOTO], id="q"))
        await eventually(lambda: grid.runs, "it runs")
        for n in range(2, 5):
            proxy.cut()
            await eventually(partial(sent_again, grid, n), "it was sent again")
        assert await added(grid) == 2
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def sent_again(grid: Grid, number: int) -> bool:
    """Whether the request was sent so often."""
    return int(await grid.redis.xlen(f"{grid.prefix}requests:brain")) >= number
