"""An upgrade of a house, machine by machine: the release before this one and this one in one grid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orion_streams import Answer, AsyncClient, Piece
from orion_streams.demo.observer import Observer, Tally
from orion_streams.demo.simulated_grid import EMBEDDER, GEMMA
from orion_streams.model.policy import DECIDER
from orion_streams.runtime.connection import connect
from orion_streams.runtime.supervisor import Child
from tests.helpers import WAIT_S
from tests.security.guarded_grids import quick_nodes
from tests.upgrade.keep_wheel import ROOT, WHEEL
from tests.upgrade.mixed_grid import MixedGrid, command, old_python

pytestmark = pytest.mark.everything
NODES = [node.name for node in quick_nodes()]
AGENTS = tuple(f"agent {name}" for name in NODES)
OLD_DECIDER = 3


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the older release."""
    return old_python(tmp_path_factory.mktemp("old") / "venv")


def grid_of(old: Path, folder: Path, *olds: str) -> MixedGrid:
    """A grid in which these roles are of the older release."""
    folder.mkdir()
    return MixedGrid(old, olds, nodes=quick_nodes(), folder=folder)


async def asked(grid: MixedGrid, first: int = 0) -> None:
    """Some requests of every kind, at the same time, each of which must be answered."""
    async with AsyncClient(grid.redis_url) as brain:

        async def streamed(name: str) -> None:
            heard = [event async for event in brain.stream(GEMMA.name, "Why?", id=name, timeout_s=60)]
            assert isinstance(heard[-1], Answer)
            told = "".join(piece.text for piece in heard if isinstance(piece, Piece))
            assert told == heard[-1].text != ""

        await asyncio.gather(
            *(streamed(f"s{first + number}") for number in range(4)),
            *(
                brain.chat(GEMMA.name, [{"role": "user", "content": "Why?"}], timeout_s=60)
                for _ in range(4)
            ),
            *(brain.embed(EMBEDDER.name, ["a", "b"], timeout_s=60) for _ in range(4)),
        )


@contextlib.asynccontextmanager
async def watched(grid: MixedGrid) -> AsyncIterator[Observer]:
    """Start a grid, and one who reads its streams and shares no code with either release."""
    async with grid, connect(grid.redis_url) as redis:
        observer = Observer(redis, "orion:", ["brain"], NODES)
        observer.start()
        yield observer
        await observer.stop()


def each_once(tally: Tally) -> None:
    """Every request has one end, and no attempt was sent twice."""
    assert tally.requests == tally.answered >= 12
    assert (tally.lost, tally.duplicate_replies, tally.duplicate_dispatches) == (0, 0, 0)


def test_the_older_release_is_the_older_release(old: Path) -> None:
    """The interpreter runs the wheel and not this checkout; the wheel is small."""
    env = {**os.environ, "PYTHONPATH": ""}
    words = (*command(old), "--version")
    said = subprocess.run(words, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert said.stdout == "orion-streams 0.2.0\n"
    assert WHEEL.stat().st_size <= 1_000_000


@pytest.mark.parametrize(
    "olds",
    [AGENTS, ("router",), (AGENTS[0], "router"), ("router", *AGENTS)],
    ids=" ".join,
)
async def test_old_and_new_answer_together(old: Path, tmp_path: Path, olds: tuple[str, ...]) -> None:
    """This release's router with the older one's agents, the other way round, and mixed; the client is of
    this release: each request is answered, once."""
    grid = grid_of(old, tmp_path / "grid", *olds)
    async with watched(grid) as observer:
        await asked(grid)
        each_once(await observer.stop())
        decider = DECIDER if "router" not in olds else OLD_DECIDER
        await grid.wait_for(lambda seen: seen.decider == decider, WAIT_S)


async def test_a_house_is_upgraded_while_it_is_asked(old: Path, tmp_path: Path) -> None:
    """The order of docs/UPGRADE.md. A router of this release takes over beside the older one, which stops
    with a sentence; then the agents, one after the other. And back, by a higher revision."""
    grid = grid_of(old, tmp_path / "grid", "router", *AGENTS)
    async with watched(grid) as observer:
        await asked(grid)
        asking = asyncio.create_task(asked(grid, 10))
        new = grid.new_role("router", "router")
        grid.routers.append(new)
        await new.start()
        await grid.wait_for(lambda seen: seen.decider == DECIDER, WAIT_S, "this release decides")
        await asking
        await asked(grid, 20)  # what the older router reads next tells it
        before = grid.routers[0]
        said = await stopped(before)
        assert f"version {DECIDER} of the decider is in force, and this is version {OLD_DECIDER}" in said
        for name in NODES:
            await grid.agents[name].stop()
            grid.agents[name] = grid.new_role(f"agent {name}", "agent", "--node", name)
            await grid.agents[name].start()
        await asked(grid, 30)
        await new.stop()
        again = grid.old_role("router", "router")
        await again.start()
        assert (
            f"set revision = {(await grid.wait_for(lambda _: True, WAIT_S)).revision + 1}"
            in await stopped(again)
        )
        grid.write_old_config(revision=2)
        grid.routers.append(again)
        await again.start()
        await grid.wait_for(lambda seen: seen.decider == OLD_DECIDER, WAIT_S, "the older release decides")
        await asked(grid, 40)
        each_once(await observer.stop())


async def stopped(role: Child) -> str:
    """Wait until a role has ended by itself for good; what it said last."""
    assert role._watcher is not None
    await asyncio.wait_for(role._watcher, WAIT_S)
    assert role.gave_up
    return "\n".join(role.last_lines)


async def test_an_event_that_the_older_release_does_not_know_ends_it(old: Path, tmp_path: Path) -> None:
    """Going back over one writes nothing: the older router says where it stopped, and the newer goes on."""
    grid = grid_of(old, tmp_path / "grid", *AGENTS)
    async with watched(grid):
        async with AsyncClient(grid.redis_url, "gateway") as gateway:
            await gateway.add_guest("key-anna")
        await grid.routers[0].stop()
        before = await grid.wait_for(lambda _: True, WAIT_S)
        grid.write_old_config(revision=2)
        words = (*command(old), "router", "--config", str(grid.old_config), "--redis", grid.redis_url)
        older = await asyncio.to_thread(lambda: ended(words, tmp_path))
        assert older.returncode == 1
        assert "of the log is no event that this version of orion-streams knows" in older.stderr
        assert (await grid.wait_for(lambda _: True, WAIT_S)).position == before.position
        await grid.routers[0].start()
        await asked(grid)


async def test_older_programs_at_a_house_of_this_release(old: Path, tmp_path: Path) -> None:
    """`orion ask` of the older release is answered, and its reads show the house, until the first drain:
    the reason why nobody drains before all readers are new."""
    grid = grid_of(old, tmp_path / "grid")
    async with watched(grid) as observer:
        grid.write_old_config()
        await asked(grid)
        each_once(await observer.stop())

        async def older(*words: str) -> subprocess.CompletedProcess[str]:
            at = ("--config", str(grid.old_config), "--redis", grid.redis_url)
            return await asyncio.to_thread(lambda: ended((*command(old), *words, *at), tmp_path))

        said = await older("ask", "Why?", "--model", GEMMA.name)
        assert (said.returncode, bool(said.stdout.strip())) == (0, True), said.stderr
        seen = await older("nodes")
        assert (seen.returncode, NODES[-1] in seen.stdout) == (0, True), seen.stderr
        async with AsyncClient(grid.redis_url, "owner") as operator:
            await operator.drain("orion-worker")
        blind = await older("nodes")
        assert blind.returncode == 1
        assert "is no event that this version of orion-streams knows" in blind.stderr


def ended(words: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of the older release that ended by itself."""
    env = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        words, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=WAIT_S
    )
