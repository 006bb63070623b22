"""The server's append-only file is cut at every command and in the middle of each: the promise holds.

`ORION_NIGHTLY=1` cuts it at every byte.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import LogError
from orion_streams.protocol.answer_events import Answer, Piece, Restarted
from orion_streams.runtime.faust_redis import App
from tests.conftest import SERVERS
from tests.crash.aof import Own, command_ends, copy_cut, file_of
from tests.crash.crash_roles import MODEL, WORDS
from tests.crash.life import ID, Life, Plan, assert_promise
from tests.crash.mortal import all_of, mortality
from tests.helpers import WAIT_S, eventually
from tests.needs import REDIS_SERVER

NIGHTLY = os.environ.get("ORION_NIGHTLY") == "1"
TOGETHER = 8
QUICK_STRIDE, STRIDE = 8, 3
"""Every so manieth place, in a quick run and in one of everything."""
FEWEST_COMMANDS = 20
"""A life writes far more; with fewer the counting is broken, and the test would say nothing."""


@pytest.fixture(params=SERVERS)
def binary(request: pytest.FixtureRequest) -> Path | None:
    """The packaged Valkey, or Debian's Redis."""
    return None if request.param == "valkey" else Path(str(REDIS_SERVER))


def stride_of(everything: bool) -> int:
    """How many places a cut goes on by."""
    return 1 if NIGHTLY else STRIDE if everything else QUICK_STRIDE


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """Name a new folder each time."""
    return (tmp_path / str(number) for number in count())


async def record(data_dir: Path, binary: Path | None, app: App, prefix: str) -> bytes:
    """Live a life with a failed first attempt. Return the file that it leaves."""
    server = Own(data_dir, binary)
    await server.start()
    life = Life(server.url, prefix, Plan("retried", failing=1), app)
    await life.ask()
    life.start_router()
    life.start_agent()
    await life.come_to_rest()
    await assert_promise(life)
    await life.let_go()
    await server.stop()
    return file_of(data_dir).read_bytes()


async def resume(
    recorded: Path, at: int, data_dir: Path, binary: Path | None, app: App, prefix: str
) -> int:
    """Start new processes on what is left of a file, and send the request again. Return how often its
    answer had to be made again."""
    copy_cut(recorded, data_dir, at)
    server = Own(data_dir, binary)
    await server.start()
    life = Life(server.url, prefix, Plan("answered"), app)
    life.ollama.first = 100
    try:
        answered = bool(await life.ends())
        await life.ask()
        life.start_router()
        life.start_agent()
        await life.come_to_rest()
        await assert_promise(life)
        return int(not answered)
    except BaseException as error:
        error.add_note(f"with the file cut at byte {at}")
        raise
    finally:
        await life.let_go()
        await server.remove()


@pytest.mark.timeout(7200)
async def test_the_promise_holds_wherever_the_file_ends(
    *, binary: Path | None, app: App, prefix: str, tmp_path: Path, folders: Iterator[Path], everything: bool
) -> None:
    """Server, router and agent die together and the end of the file is lost: new ones and a client that
    sends its request again bring it to exactly one terminal reply."""
    with mortality():
        recorded = tmp_path / "recorded"
        raw = await record(recorded, binary, app, prefix)
        ends = [0, *command_ends(raw)]
        middles = [(a + b) // 2 for a, b in pairwise(ends)]
        points = list(range(len(raw) + 1)) if NIGHTLY else sorted({*ends, *middles})
        points = sorted({*points[:: stride_of(everything)], len(raw)})  # whole: nothing is lost
        repeats = 0
        for first in range(0, len(points), TOGETHER):
            works = (
                resume(recorded, at, next(folders), binary, app, prefix)
                for at in points[first : first + TOGETHER]
            )
            repeats += sum(await all_of(works))
    print(f"\n{len(points)} cuts of {len(raw)} bytes, {len(ends) - 1} commands: tail_repeats {repeats}")
    assert len(ends) > FEWEST_COMMANDS
    assert 0 < repeats < len(points)


async def survive(life: Life, server: Own, back: int, when: str) -> bool:
    """Let the server lose its last `back` commands, while all processes survive. Return whether it had so
    many."""
    there = True

    def place(raw: bytes) -> int:
        nonlocal there
        ends = [0, *command_ends(raw)]
        there = back < len(ends)
        return ends[-1 - back] if there else len(raw)

    life.start_router()
    life.start_agent()
    if when == "running":
        life.ollama.hold.clear()
    async with AsyncClient(server.url, prefix=life.config.prefix) as client:
        call = asyncio.ensure_future(heard(client))
        await life.token()
        if when == "answered":
            await eventually(life.rests, "the answer")
        await server.lose(place)
        await life.redis.connection_pool.disconnect()
        life.ollama.hold.set()
        await reunited(life)
        async with asyncio.timeout(WAIT_S):
            pieces, text = await call
        assert [word.partition("-")[0] for word in text.split()] == list(WORDS)
        assert text.startswith(pieces)
        assert client.duplicates <= 1
    return there


async def heard(client: AsyncClient) -> tuple[str, str]:
    """Return the pieces since the last restart, and the answer's text."""
    pieces = ""
    async for event in client.stream(MODEL, "say three words", id=ID):
        match event:
            case Piece(text):
                pieces += text
            case Restarted():
                pieces = ""
            case Answer():
                return pieces, event.text
    raise AssertionError("no answer")


async def reunited(life: Life) -> None:
    """Wait until all that is left of the request is over. Start a router anew, as its operator would, that
    ended since nothing was left at all."""

    async def over() -> bool:
        [leading] = life.router.main
        if leading.done():
            assert isinstance(leading.exception(), LogError)
            assert await life.store.log.last_position() == 0
            life.start_router()
        return await life.caught_up() and await life.idles()

    await eventually(over, "rest")


@pytest.mark.parametrize("when", ["running", "answered"])
async def test_those_who_survive_what_their_server_lost_go_on(
    binary: Path | None, app: App, folders: Iterator[Path], when: str, everything: bool
) -> None:
    """Only the server dies, and its last 0, 1, 2 … commands are lost, though it had acknowledged them:
    router, agent and client remember more than there is, and none of them waits for ever."""

    async def lose(back: int) -> bool:
        server = Own(next(folders), binary)
        await server.start()
        life = Life(server.url, f"t{uuid4().hex[:12]}:", Plan("answered"), app)
        try:
            there = await survive(life, server, back, when)
            if await life.ends():
                await life.come_to_rest()
                await assert_promise(life, lost=True)
            return there
        except BaseException as error:
            error.add_note(f"with the last {back} commands lost while {when}")
            raise
        finally:
            await life.let_go()
            await server.remove()

    lost = 0
    stride = stride_of(everything)
    with mortality():
        backs = count(0, stride)
        while True:
            there = await all_of(lose(back) for back in islice(backs, TOGETHER))
            lost += sum(there)
            if not any(there):
                break
    print(f"\n{lost} lost tails while {when}")
    assert lost * stride > FEWEST_COMMANDS
