"""`orion drain` and `orion resume`, as a person types them on a grid that runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.cli.drain_command import ms_of, operator_of
from orion_streams.cli.install.starter import NodeWish, Wishes, starter
from orion_streams.config import PACKAGED_TOML, Config, parse
from orion_streams.errors import ConfigError
from tests.cli.run_cli import run
from tests.contract.contract_grid import Grid, running, silence
from tests.helpers import eventually

CLI = """
[clients.cli]
operator = true
"""


def config_in(home: Path, some: Grid, clients: str = CLI) -> None:
    """./streams.toml of that grid."""
    text = f'prefix = "{some.prefix}"\n[redis]\nurl = "{some.url}"\n[nodes.one]\n{clients}'
    (home / "streams.toml").write_text(text)


async def up(some: Grid) -> None:
    """Wait until both nodes are heard."""

    async def heard() -> bool:
        nodes = some.router.state.grid.nodes
        return len(nodes) == 3 and all(nodes[name].inventory_known for name in ("one", "two"))

    await eventually(heard, "health")


async def orion(home: Path, *words: str) -> tuple[int, str, str]:
    """A command, while the grid goes on."""
    return await asyncio.to_thread(run, home, *words)


async def rows(home: Path, what: str) -> Any:
    """What a read says."""
    code, out, err = await orion(home, what, "--json")
    assert code == 0, err
    return msgspec.json.decode(out)


async def test_a_node_rests_and_goes_on(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """It is said what happens; `nodes` shows who drained it and for how long, and doctor finds nothing
    wrong with it; the last node needs --yes."""
    async with running(valkey_url, prefix, silence, CLI) as some:
        await up(some)
        config_in(tmp_path, some)
        code, out, err = await orion(tmp_path, "drain", "one", "--for", "2h")
        assert (code, err) == (0, "")
        assert out.startswith("one takes nothing for 2 h, then it goes on by itself.")
        assert "orion resume one" in out
        [row] = [each for each in await rows(tmp_path, "nodes") if each["node"] == "one"]
        assert (row["state"], row["limit"], row["drained_by"]) == ("drained", 7_200_000, "cli")
        assert "drained by cli, " in (await orion(tmp_path, "nodes"))[1]
        code, out, err = await orion(tmp_path, "drain", "two")
        assert (code, out) == (1, "")
        assert err.startswith("orion: two: No other node answers just now")
        assert "orion drain two --yes" in err
        code, out, err = await orion(tmp_path, "drain", "two", "--yes", "--json")
        assert msgspec.json.decode(out) == {"node": "two", "drained": True, "for_ms": 0}
        _, out, _ = await orion(tmp_path, "doctor")
        assert "cli drained it for 2 h" in out
        assert "cli drained it until it is resumed" in out
        for name in ("one", "two"):
            assert (await orion(tmp_path, "resume", name))[1] == f"{name} takes requests again\n"
        states = {each["node"]: each["state"] for each in await rows(tmp_path, "nodes")}
        assert "drained" not in states.values()


async def test_who_is_no_operator_is_refused(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """By the grid's own rules, whatever the file here says; an unknown node is, too."""
    async with running(valkey_url, prefix, silence, CLI, ("brain", "other")) as some:
        await up(some)
        config_in(tmp_path, some, "[clients.other]\noperator = true\n")
        code, _, err = await orion(tmp_path, "drain", "one")
        assert code == 1
        assert "not_allowed" in err
        config_in(tmp_path, some)
        code, _, err = await orion(tmp_path, "resume", "nobody")
        assert code == 1
        assert err == "orion: No node is called 'nobody'. Those that answer: one, two. (unknown_node)\n"
        code, _, err = await orion(tmp_path, "drain", "one", "--client", "other")
        assert "not_allowed" in err
        assert not any(each.rest for each in some.router.state.grid.nodes.values())


@pytest.mark.parametrize(
    ("text", "ms"), [("2h", 7_200_000), ("90m", 5_400_000), ("1h30m", 5_400_000), ("10s", 10_000)]
)
def test_a_term_is_a_duration(text: str, ms: int) -> None:
    """As Ollama writes them."""
    assert ms_of(text) == ms


def test_a_term_has_an_end() -> None:
    """Thirty days, not a millisecond more; what is said names the limit."""
    assert ms_of("720h") == 30 * 86_400_000
    with pytest.raises(ConfigError, match=r"--for 8761h: expected at most 720 h \(30 days\)"):
        ms_of("8761h")


@pytest.mark.parametrize("text", ["", "2", "two hours", "0s", "-2h", "2d"])
def test_what_is_no_term_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ConfigError, match=r"--for: expected a duration, e.g. 2h"):
        ms_of(text)


def test_a_person_speaks_as_an_operator() -> None:
    """As `cli` if that is one, else as the first, by default `owner`; where there is none, the grid says
    what is missing."""
    nodes = "[nodes.n]\n"
    assert operator_of(parse(nodes)) == "owner"
    assert operator_of(parse(f"{nodes}[clients.cli]\n[clients.owner]\noperator = true\n")) == "owner"
    assert operator_of(parse(f"{nodes}[clients.brain]\n")) == "cli"


async def test_without_users_the_command_line_is_an_operator(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """With the rules as they are by default it drains, as the client `owner`; and only that one is an
    operator, here, in the package's file and in that of `orion init`, so that with users `cli` is none."""
    usual = "[clients.owner]\noperator = true\n[clients.cli]\n"
    async with running(valkey_url, prefix, silence, usual) as some:
        await up(some)
        config_in(tmp_path, some, "")
        code, out, err = await orion(tmp_path, "drain", "one")
        assert (code, err) == (0, "")
        assert "one takes nothing" in out
        by_name = {row["node"]: row["drained_by"] for row in await rows(tmp_path, "nodes")}
        assert by_name["one"] == "owner"
    packaged = parse(PACKAGED_TOML.read_text(encoding="utf-8"))
    written = parse(starter(Wishes((NodeWish("one", 8_000, True, "http://127.0.0.1:11434"),))))
    for config in (Config(), packaged, written):
        assert [name for name, rules in config.clients.items() if rules.operator] == ["owner"]
