"""What the inviting side makes of a key that is gone, and of a node that is not heard of."""

from __future__ import annotations

from typing import Any

import pytest

from orion_streams.cli.install import joining
from orion_streams.cli.install.invitation import Ticket
from orion_streams.config import parse
from orion_streams.errors import OrionError
from orion_streams.model.state import Grid
from tests.install.houses import TOML

UNTIL_MS = 100_000
TICKET = Ticket("orion-worker", "redis://h", "k", "u", "p", UNTIL_MS)
STEP_MS = 60_000


class Server:
    """One whose clock goes on by a step with each look, and where the key is taken at a time."""

    def __init__(self, ms: int, taken_ms: int | None) -> None:
        self.ms, self.taken_ms, self.deleted = ms, taken_ms, False

    async def exists(self, _: str) -> bool:
        return not self.deleted and (self.taken_ms is None or self.ms < self.taken_ms)

    async def delete(self, key: str) -> int:
        there = await self.exists(key)
        self.deleted = True
        return int(there)

    async def time(self) -> tuple[int, int]:
        self.ms += STEP_MS
        return self.ms // 1000, 0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting; no router knows the node."""

    async def grid_of(*_: Any) -> Grid:
        return Grid()

    monkeypatch.setattr(joining, "LOOK_S", 0)
    monkeypatch.setattr(joining, "grid_of", grid_of)


@pytest.mark.usefixtures("at_once")
async def test_what_was_taken_in_the_last_moment_was_taken() -> None:
    """The server kept it for longer, so somebody took it. Then the waiting has an end."""
    said: list[str] = []
    server = Server(UNTIL_MS - 1, taken_ms=UNTIL_MS)
    server.ms = UNTIL_MS
    with pytest.raises(OrionError, match="no router knows orion-worker yet"):
        await joining.wait_until_joined(server, parse(TOML), TICKET, "", said.append)
    assert "has taken the invitation" in said[0] and "no router knows" in said[1] and len(said) == 2
    assert joining.LATEST_MS < server.ms < joining.LATEST_MS + UNTIL_MS + 3 * STEP_MS


@pytest.mark.usefixtures("at_once")
async def test_what_nobody_took_is_ended() -> None:
    """By whoever waits, so that it counts no more."""
    server = Server(0, taken_ms=None)
    assert await joining.wait_until_joined(server, parse(TOML), TICKET, "", print) is None
    assert server.deleted and server.ms >= UNTIL_MS
