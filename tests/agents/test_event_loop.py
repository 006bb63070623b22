"""Router and agent on the event loop that streams.toml names."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from orion_streams import AsyncClient
from orion_streams.agents import apps
from orion_streams.config import parse
from orion_streams.demo.simulated_grid import GEMMA, SimulatedGrid
from orion_streams.errors import ConfigError
from tests.security.guarded_grids import quick_nodes

NODE = "\n[nodes.pi]\n"


class LoopedGrid(SimulatedGrid):
    """A grid whose streams.toml names a loop."""

    event_loop = "uvloop"

    def _toml(self) -> str:
        return f'event_loop = "{self.event_loop}"\n{super()._toml()}'


class PlainGrid(LoopedGrid):
    """The control: the default, named."""

    event_loop = "asyncio"


@pytest.mark.parametrize("kind", [LoopedGrid, PlainGrid])
async def test_roles_run_on_the_loop_that_is_named(tmp_path: Path, kind: type[LoopedGrid]) -> None:
    """A request is answered by processes that have uvloop in memory, or have not."""
    async with kind(quick_nodes(), folder=tmp_path) as grid:
        async with AsyncClient(grid.redis_url) as brain:
            assert (await brain.generate(GEMMA.name, "Why?", timeout_s=60)).text
        for role in (*grid.routers, *grid.agents.values()):
            mapped = [row.path for row in psutil.Process(role.pid).memory_maps()]
            assert any("/uvloop/" in each for each in mapped) == (kind.event_loop == "uvloop"), role.name


def test_a_loop_that_is_not_installed_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the key and the line that mends it; the default asks for nothing."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    apps.choose_loop(parse(NODE))
    with pytest.raises(ConfigError, match="event_loop: uvloop is not installed: pip install"):
        apps.choose_loop(parse(f'event_loop = "uvloop"{NODE}'))
    with pytest.raises(ConfigError, match="event_loop"):
        parse(f'event_loop = "trio"{NODE}')
