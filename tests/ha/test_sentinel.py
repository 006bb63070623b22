"""A real primary with its replica and three sentinels: the primary is killed, and the grid goes on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import json
from msgspec.structs import replace
from redis.exceptions import ConnectionError as RedisConnectionError

from orion_streams import AsyncClient
from orion_streams.demo.simulated_grid import SimulatedGrid, three_nodes
from orion_streams.model.server_urls import with_password, with_tls
from orion_streams.runtime.connection import connect, in_short
from orion_streams.runtime.embedded_server import packaged_binary
from orion_streams.runtime.supervisor import Child
from tests import certificates
from tests.cli.run_cli import run
from tests.conftest import SERVERS
from tests.ha.servers import House
from tests.helpers import TERMINAL_REPLIES, eventually
from tests.needs import REDIS_SERVER

MODEL, TIMEOUT_S, ASKING = "gemma3:270m", 60.0, 4
TROUBLE = (" ERROR ", " CRITICAL ", "ended with", "Traceback")


@pytest.fixture(params=SERVERS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """Five processes of one kind of server."""
    binary = packaged_binary() if request.param == "valkey" else Path(str(REDIS_SERVER))
    with House(binary, tmp_path) as started:
        yield started


class Load:
    """Clients that ask one request after the other, each under an id of its own."""

    def __init__(self, client: AsyncClient) -> None:
        self._client, self._going = client, True
        self.answered: list[str] = []
        self._tasks = [asyncio.create_task(self._ask(f"c{n}")) for n in range(ASKING)]

    async def _ask(self, name: str) -> None:
        number = 0
        while self._going:
            number += 1
            request_id = f"{name}-{number}"
            prompt = f"What is {request_id}?"
            async for _ in self._client.stream(MODEL, prompt, id=request_id, timeout_s=TIMEOUT_S):
                pass  # the last event is the answer, else it raises
            self.answered.append(request_id)

    async def more(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = len(self.answered) + count

        async def there() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return len(self.answered) >= wanted

        await eventually(there, f"{count} more answers")

    async def end(self) -> None:
        """Ask nothing new; everything asked is answered, or this raises."""
        self._going = False
        await asyncio.gather(*self._tasks)


class Grid:
    """A grid of real processes behind sentinels, under load; `lines` is what its processes said."""

    def __init__(self, house: House, grid: SimulatedGrid, client: AsyncClient, lines: list[str]) -> None:
        self.house, self.grid, self.client, self.lines = house, grid, client, lines
        self.load = Load(client)

    async def taken_over(self) -> set[str]:
        """Wait until the replica is the primary; what had been answered, also if a socket held it back."""
        await eventually(self.house.taken_over, "the take-over")
        return set(self.load.answered)

    @asynccontextmanager
    async def second_router(self) -> AsyncIterator[Child]:
        """Another router of the same grid, while the block runs."""
        argv = (sys.executable, "-m", "orion_streams.cli", "router", "--config", str(self.grid.config_path))
        env = {"ORION_REDIS_URL": self.house.url}
        child = Child("router 2", argv, env=env, say=self.say, remark=self.say)
        await child.start()
        try:
            await eventually(
                lambda: any(line.startswith("router 2") and "leading" in line for line in self.lines),
                "a second router",
            )
            yield child
        finally:
            await child.stop()

    def say(self, name: str, line: str) -> None:
        """Keep what a process says."""
        self.lines.append(f"{name}: {line}")

    async def answers(self) -> Counter[str]:
        """Terminal replies on the new primary, by id."""
        rows = await self.redis.xrange("orion:replies:brain")
        kinds = [(fields[b"id"].decode(), fields[b"kind"].decode()) for _, fields in rows]
        return Counter(request_id for request_id, kind in kinds if kind in TERMINAL_REPLIES)

    @property
    def redis(self) -> Any:
        return self.client._redis

    def lost_tails(self) -> list[str]:
        """What the router said of a lost tail."""
        return [line for line in self.lines if "the server lost its tail" in line]

    async def check(self, home: Path, before: set[str]) -> None:
        """No process ended or met what it could not mend; every request has one end on the new primary,
        unless it was answered before the take-over; the log is gapless and every decision is replayed."""
        assert [line for line in self.lines if any(word in line for word in TROUBLE)] == []
        found = await self.answers()
        assert set(found.values()) == {1}
        assert set(self.load.answered) - found.keys() <= before
        code, out, err = await asyncio.to_thread(run, home, "replay", "--json", "--redis", self.house.url)
        assert code == 0, err
        assert json.decode(out)["diverged"] == 0


@asynccontextmanager
async def under_load(house: House) -> AsyncIterator[Grid]:
    """Router and agent behind the sentinels, with a quick node, while clients ask."""
    lines: list[str] = []
    quick = {"decode_tokens_per_s": 100.0, "prefill_tokens_per_s": 0.0, "disk_mb_per_s": 0.0}
    master, _, _ = three_nodes()
    nodes = [replace(master, spec=replace(master.spec, slots=ASKING, **quick))]

    def say(name: str, line: str) -> None:
        lines.append(f"{name}: {line}")

    async with (
        SimulatedGrid(nodes, redis=house.url, say=say, remark=say) as grid,
        AsyncClient(house.url) as client,
    ):
        yield Grid(house, grid, client, lines)


@pytest.mark.everything
async def test_the_grid_goes_on_when_the_primary_is_killed(house: House, tmp_path: Path) -> None:
    """kill -9 of the primary in mid-load: every request is answered, once, and whatever the replica had not
    got is made again; nothing ends, diverges or is left out."""
    async with under_load(house) as grid:
        await grid.load.more(5)
        house.primary.kill()
        before = await grid.taken_over()
        await grid.load.more(5)
        await grid.load.end()
        await grid.check(tmp_path, before)


@pytest.mark.everything
@pytest.mark.parametrize("house", ["valkey"], indirect=True)
async def test_the_grid_goes_on_when_the_primary_hangs(house: House, tmp_path: Path) -> None:
    """SIGSTOP of the primary: the grid goes on at the replica, and stays there when the old one wakes up
    and still takes itself for one."""
    async with under_load(house) as grid:
        await grid.load.more(5)
        house.primary.signal(signal.SIGSTOP)
        before = await grid.taken_over()
        await grid.load.more(5)
        house.primary.signal(signal.SIGCONT)
        await eventually(
            lambda: house.primary.redis.info("replication")["role"] == "slave",
            "the old primary is a replica",
        )
        await grid.load.more(5)
        await grid.load.end()
        await grid.check(tmp_path, before)


@pytest.mark.everything
async def test_a_lost_tail_is_said_by_name_and_healed(house: House, tmp_path: Path) -> None:
    """The replica misses acknowledged writes when it takes over: the router says what was lost, requests
    that were lost are sent again, and answers that came before may come again: the client counts those."""
    async with under_load(house) as grid:
        await grid.load.more(5)
        house.cut_replication()
        await grid.load.more(5)
        had = int((await grid.redis.xrevrange("orion:log", count=1))[0][0].partition(b"-")[0])
        house.primary.kill()
        before = await grid.taken_over()
        await grid.load.more(5)
        await grid.load.end()
        [line] = grid.lost_tails()
        ends_at, committed = (int(line.split(word)[1].split()[0]) for word in ("ends at", "had committed"))
        assert ends_at < had <= committed
        await grid.check(tmp_path, before)
        again = [each for each in before if (await grid.answers())[each]]
        assert grid.client.duplicates <= len(again)


@pytest.mark.parametrize("house", ["valkey"], indirect=True)
async def test_the_second_router_takes_over_with_the_replica(house: House, tmp_path: Path) -> None:
    """The machine with the primary and the leading router is gone, and the replica lacks a tail: the other
    router says what was lost and leads."""
    async with under_load(house) as grid, grid.second_router() as second:
        await grid.load.more(5)
        house.cut_replication()
        await grid.load.more(5)
        house.primary.kill()
        [leader] = grid.grid.routers
        await leader.kill()
        before = await grid.taken_over()
        await grid.load.more(5)
        await grid.load.end()
        [line] = grid.lost_tails()
        assert line.startswith("router 2: ")
        assert second.restarts == 0
        await grid.check(tmp_path, before)


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.everything)])
async def test_servers_and_sentinels_may_ask_for_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """A client with both passwords writes before and after a fail-over, also where all of it is TLS;
    without the sentinels' password it is told that they name no primary."""
    settings, ca = "", ""
    if tls:
        (tmp_path / "certs").mkdir()
        certs = certificates.make(tmp_path / "certs")
        settings, ca = certificates.server_conf(certs), str(certs / "ca.pem")
    binary = Path(str(REDIS_SERVER)) if tls else packaged_binary()
    with House(binary, tmp_path, password="secret", tls=settings) as house:
        url = with_tls(with_password(house.url, "secret"), ca, "", "")
        refused: Any = connect(url)
        with pytest.raises(RedisConnectionError) as caught:
            await refused.ping()
        assert in_short(caught.value) == "the sentinels name no primary"
        await refused.aclose()
        monkeypatch.setenv("ORION_SENTINEL_PASSWORD", "secret")
        redis: Any = connect(url)
        await redis.set("written", "before")
        house.primary.kill()

        async def written() -> bool:
            try:
                return bool(await redis.set("written", "after"))
            except RedisConnectionError:
                return False

        await eventually(written, "a write to the new primary")
        assert house.replica.redis.get("written") == b"after"
        await redis.aclose()
