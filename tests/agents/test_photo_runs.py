"""What an agent makes of images in parts: it reads them from their stream, when it runs the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orion_streams.agents import apps, part_reader
from orion_streams.agents.backend import Chunk, Echo
from orion_streams.protocol.agent_entries import WorkHead
from orion_streams.protocol.photo_parts import PART_BYTES
from orion_streams.protocol.requests_replies import RequestEntry, images_of
from orion_streams.runtime.connection import ask_one
from tests.agents.agent_bench import SKILLED, Bench, Result, running
from tests.helpers import eventually

IMAGE = "aGk="


class Album(Echo):
    """An echo that keeps the images it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    async def run(self, entry: RequestEntry, head: WorkHead) -> AsyncGenerator[Chunk, None]:
        self.shown.append(images_of(entry))
        async for chunk in super().run(entry, head):
            yield chunk


@asynccontextmanager
async def looking(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Album]:
    """The bench with an agent that answers at once and keeps what it was shown."""
    album = Album()
    monkeypatch.setattr(apps, "make_backend", lambda *_: album)
    async with running(bench.config):
        yield album


async def part(bench: Bench, data: str | bytes, **more: Any) -> str:
    """Write a part as the client `brain` does; its id."""
    added: bytes = await bench.redis.xadd(f"{bench.prefix}parts:brain", {"data": data, **more})
    return added.decode()


async def asked(bench: Bench, images: list[str], parts: list[str], **more: Any) -> Result:
    """A run's end."""
    return await bench.ended(await bench.run(images=images, parts=parts, **more))


async def test_a_backend_sees_the_images_and_no_parts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the limits of parts, beside others in base64, in a request and in messages: each as it was."""
    first, second = "a" * PART_BYTES, "b" * 100
    parts = [await part(bench, first), await part(bench, second)]
    wanted = ["a" * 10, "a" * 5 + "b" * 100]
    images = ["parts:0-10", IMAGE, f"parts:{PART_BYTES - 5}-{PART_BYTES + 100}"]
    async with looking(bench, monkeypatch) as album:
        assert (await asked(bench, images, parts)).head.op == "completed"
        message = {"role": "user", "content": "x", "images": images}
        await asked(bench, [], parts, messages=[{"role": "system", "content": "s"}, message])
        assert album.shown == [[wanted[0], IMAGE, wanted[1]]] * 2


async def test_ollama_gets_images_of_parts_like_others(agent: Bench) -> None:
    """The model that sees answers, also to 4 MB over HTTP; the other one refuses: as with images in the
    entry."""
    large = [await part(agent, "aGkh" * (PART_BYTES // 4)) for _ in range(16)]
    end = await asked(agent, [f"parts:0-{16 * PART_BYTES}"], large, model=SKILLED)
    assert end.head.op == "completed"
    image, parts = ["parts:0-4"], [await part(agent, IMAGE)]
    assert (await asked(agent, image, parts, model=SKILLED)).head.op == "completed"
    blind = await asked(agent, image, parts)
    assert (blind.head.code, blind.head.blame) == ("refused", "request")


@pytest.mark.parametrize("what", ["gone", "too large", "short", "no base64", "no data", "no stream"])
async def test_parts_that_are_not_as_promised_end_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By a code of its own, to the request's blame; the message says which part and why, and none of it
    goes to the backend. The next request is served."""
    good, odd = await part(bench, "a" * 8), ""
    key = f"{bench.prefix}parts:brain"
    match what:
        case "gone":
            odd = await part(bench, IMAGE)
            await bench.redis.xdel(key, odd)
        case "too large":
            odd = await part(bench, "a" * (PART_BYTES + 1))
        case "short":
            odd = await part(bench, "a")
        case "no base64":
            odd = await part(bench, b"\xff\xfe")
        case "no data":
            odd = (await bench.redis.xadd(key, {"head": "x"})).decode()
        case _:
            await bench.redis.set(key, "a string")
            odd = "1-0"
    async with looking(bench, monkeypatch) as album:
        end = await asked(bench, ["parts:0-12"], [good, odd])
        assert (end.head.op, end.head.code, end.head.blame) == ("failed", "parts_gone", "request")
        assert ("9 characters" in end.message) == (what == "short")
        named = good if what == "no stream" else odd
        assert (named in end.message) == (what != "short")
        assert album.shown == []
        assert (await asked(bench, [IMAGE], [])).head.op == "completed"


async def test_a_cut_while_parts_are_read_is_waited_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at each part once: the run goes on where it was, and says nothing of it."""
    parts = [await part(bench, letter * 4) for letter in "abc"]
    cuts: list[str] = []

    async def cut(redis: Any, *command: Any) -> Any:
        if command[-1] not in cuts:
            cuts.append(command[-1])
            raise ConnectionResetError
        return await ask_one(redis, *command)

    monkeypatch.setattr(part_reader, "ask_one", cut)
    async with looking(bench, monkeypatch) as album:
        assert (await asked(bench, ["parts:0-12"], parts)).head.op == "completed"
        assert album.shown == [["aaaabbbbcccc"]]
        assert cuts == parts


async def test_a_run_is_cancelled_while_its_parts_are_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end comes, and its slot is free, though the server never answers."""
    asking = asyncio.Event()

    async def hang(redis: Any, *command: Any) -> Any:
        if not asking.is_set():
            asking.set()
            await asyncio.Event().wait()
        return await ask_one(redis, *command)

    monkeypatch.setattr(part_reader, "ask_one", hang)
    parts = [await part(bench, IMAGE)]
    async with looking(bench, monkeypatch):
        held = await bench.run(images=["parts:0-4"], parts=parts)
        await eventually(asking.is_set, "a part is asked for")
        await bench.cancel(held)
        assert (await bench.ended(held)).head.code == "cancelled"
        assert (await asked(bench, ["parts:0-4"], parts)).head.op == "completed"
