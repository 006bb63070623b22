"""`orion pull` and `orion rm` at a terminal: how far it is, and what Ctrl-C does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from orion_streams.cli.disk_command import BAR, line_of
from orion_streams.client.disk_orders import PullProgress
from orion_streams.demo.ollama import ModelSpec
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import ClientRules
from tests.agents.agent_bench import NODE, Bench, limited, open_bench, routing, running
from tests.cli.run_cli import start
from tests.cli.terminals import Terminal, at_terminal
from tests.helpers import eventually

NEW = "new:1b"


@pytest.fixture
async def house(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """A node whose registry is far away: a pull takes longer than any test waits."""
    registry = (ModelSpec(name=NEW, size_mb=800),)
    async with open_bench(valkey_url, prefix, registry=registry, net_mb_per_s=4.0) as opened:
        opened.config = structs.replace(
            limited(opened.config, pull_margin_mb=0),
            pull_from=("registry.ollama.ai",),
            clients={"cli": ClientRules(operator=True)},
        )
        (tmp_path / "streams.toml").write_text(
            f'prefix = "{prefix}"\n[redis]\nurl = "{valkey_url}"\n[clients.cli]\noperator = true\n'
            f"[nodes.{NODE}]\n"
        )
        async with routing(opened.config), running(opened.config):
            await opened.healthy(lambda head: head.inventory is not None, "it is there")
            yield opened


async def logged(bench: Bench) -> list[ev.DiskOrdered | ev.DiskEnded]:
    """What was ordered, and how it ended."""
    rows = await bench.redis.xrange(f"{bench.prefix}log")
    events = [event_codec.decode(fields[b"event"]) for _, fields in rows]
    return [each for each in events if isinstance(each, ev.DiskOrdered | ev.DiskEnded)]


async def test_ctrl_c_cancels_a_pull_and_says_what_became_of_it(house: Bench, tmp_path: Path) -> None:
    """On a terminal a bar shows how far it is; then the node has stopped, the line is clean, exit 130."""

    def at_it(terminal: Terminal) -> int:
        terminal.until(f"{NODE}: pulling ")
        terminal.until(f"{'·' * (BAR - 2)} ")
        terminal.until("% of 0.8 GB")
        terminal.process.send_signal(signal.SIGINT)
        return terminal.end()

    code, text = await asyncio.to_thread(typed, tmp_path, at_it)
    said = f"orion: {NODE}: cancelled: the node stops; what it has pulled stays for the next time"
    assert (code, text.splitlines()[-1].rpartition("\r")[2]) == (130, said)
    [_, end] = await logged(house)
    assert isinstance(end, ev.DiskEnded)
    assert end.code == "cancelled"


async def test_in_a_pipe_no_bar_is_drawn_and_what_came_of_it_is_data(house: Bench, tmp_path: Path) -> None:
    """The control: cancelled by somebody else, it is a failure of that node and no interrupt."""
    process = await asyncio.to_thread(start, tmp_path, "pull", NEW, "--node", NODE, "--json")
    await eventually(lambda: logged(house), "it is ordered")
    [order] = await logged(house)
    await house.redis.xadd(f"{house.prefix}requests:cli", {"cancel": order.request.partition("/")[2]})
    out, err = await asyncio.to_thread(process.communicate)
    assert (process.returncode, err) == (1, "")
    assert msgspec.json.decode(out) == [
        {"node": NODE, "model": NEW, "code": "cancelled", "message": "It was cancelled."}
    ]


def typed(home: Path, act: Callable[[Terminal], int]) -> tuple[int, str]:
    """Do something at a terminal at which `orion pull` runs; its exit code and all that was written."""
    with at_terminal(home, "pull", NEW, columns=120) as terminal:
        code = act(terminal)
        return code, terminal.text


@pytest.mark.parametrize(
    ("completed", "line"),
    [
        (0, f"pi: pulling a {'·' * BAR} 0% of 2.0 GB"),
        (10**9, f"pi: pulling a {'█' * (BAR // 2)}{'·' * (BAR // 2)} 50% of 2.0 GB"),
        (3 * 10**9, f"pi: pulling a {'█' * BAR} 100% of 2.0 GB"),
    ],
)
def test_a_bar_has_one_length(completed: int, line: str) -> None:
    """Also where a registry says more than all; a small part has none, nor a step without a size."""
    assert line_of(PullProgress("pi", "pulling a", "sha256:a", 2 * 10**9, completed)) == line
    assert line_of(PullProgress("pi", "writing manifest")) == "pi: writing manifest"
    assert line_of(PullProgress("pi", "pulling b", "sha256:b", 270, 270)) == "pi: pulling b"
