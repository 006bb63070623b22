"""`orion top` as a process: at a terminal with keys and signals, in a pipe, and while Redis is away."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as sync_redis

from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.cli import top_command
from orion_streams.errors import BackendError
from orion_streams.gateway.page_rows import View
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.cli.conftest import Orion
from tests.cli.run_cli import MODEL, TOML, prepared
from tests.cli.terminals import IN, Terminal, at_terminal

SILENT = "No router since "
"""How the sentence begins over the prepared log, of which no router lives."""


def test_once_prints_one_frame(orion: Orion, grid_toml: Path) -> None:
    """In a pipe: all of it, plain, with the nodes, what runs, what waits and what was decided."""
    code, out, err = orion("top", "--once")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert out.endswith("\n")
    for words in (
        "edge", "kinematics only", "76.1 °C", f"answers brain with {MODEL}", "WAITING 2", "brain/queued",
        "brain/cooling", "waits until a node has cooled down", f"master takes {MODEL} for brain",
    ):  # fmt: skip
        assert words in out, words
    assert "q quit" not in out
    assert "secret" not in out


def test_once_as_data_is_the_view_of_the_page(orion: Orion, grid_toml: Path) -> None:
    """--json: one line, which reads as the page's view, with all ids."""
    code, out, err = orion("top", "--once", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    view = msgspec.json.decode(out, type=View)
    assert {node.name for node in view.nodes} == {"edge", "master", "never", "worker"}
    assert [row.id for row in view.queue] == ["queued", "cooling"]
    assert view.live
    assert any(row.id == "runs" for row in view.decisions)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("top",), 78, "stdout is no terminal: `orion top --once` prints one frame"),
        (("top", "--json"), 2, "--json goes with --once"),
        (("top", "--interval", "0"), 2, "--interval"),
        (("top", "--once", "--redis", "redis://127.0.0.1:1/0"), 69, "Redis does not answer"),
    ],
)
def test_what_does_not_go_is_said(
    orion: Orion, grid_toml: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    """Nothing on stdout."""
    found, out, err = orion(*words)
    assert (found, out) == (code, "")
    assert says in err


def test_an_empty_log_is_an_error_once(orion: Orion, grid_toml: Path, valkey_url: str) -> None:
    """As for all reads; at a terminal it is waited for."""
    grid_toml.write_text(TOML.format(prefix="topless:", url=valkey_url))
    code, out, err = orion("top", "--once")
    assert (code, out) == (69, "")
    assert "topless:log is empty" in err
    with at_terminal(grid_toml.parent, "top") as terminal:
        terminal.until("No router has run on this Redis yet")
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("words", [("top",), ("top", "--once")], ids=" ".join)
def test_a_log_that_cannot_be_folded_is_an_error(
    grid_toml: Path, valkey_url: str, words: tuple[str, ...]
) -> None:
    """It ends with one line, and no screen is drawn over it."""
    grid_toml.write_text(TOML.format(prefix="broken-top:", url=valkey_url))
    command(valkey_url, "DEL", "broken-top:log")
    command(valkey_url, "XADD", "broken-top:log", "1-0", "event", "no event")
    with at_terminal(grid_toml.parent, *words) as terminal:
        assert terminal.end() == 1
        assert terminal.text.strip().startswith("orion: position 1 of the log is not an event")
        assert IN not in terminal.raw
        assert terminal.modes() == terminal.before


async def test_once_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that goes away while the log is read: an error after a while."""
    monkeypatch.setattr(top_command, "ONCE_S", 0.05)
    listener = RecentListener()
    source = top_command.ViewSource(GridFollower(None, "nobody:", listeners=(listener,)), listener)
    never = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(BackendError, match="not to be read within 0 s"):
        await top_command.first_view(source, never)  # type: ignore[arg-type]
    never.cancel()


def ctrl_c(terminal: Terminal) -> None:
    """As the terminal's driver does it."""
    terminal.process.send_signal(signal.SIGINT)


Ending = Callable[[Terminal], None]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (lambda terminal: terminal.press("q"), 0),
        (lambda terminal: terminal.press("\x04"), 0),
        (ctrl_c, 130),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), 143),
        (lambda terminal: terminal.process.send_signal(signal.SIGHUP), 129),
    ],
    ids=["q", "ctrl-d", "ctrl-c", "sigterm", "sighup"],
)
def test_the_terminal_is_put_back(grid_toml: Path, ending: Ending, code: int) -> None:
    """Whatever ends it: screen, cursor and modes are as before, and nothing else is said."""
    with at_terminal(grid_toml.parent, "top") as terminal:
        terminal.until(SILENT)
        terminal.until("q quit")
        assert IN in terminal.raw
        assert terminal.modes() != terminal.before  # a control: while it runs the terminal is another
        assert not terminal.restored
        ending(terminal)
        assert terminal.end() == code
        assert terminal.restored
        assert "Traceback" not in terminal.text


@pytest.mark.everything
def test_an_error_puts_the_terminal_back(grid_toml: Path, tmp_path: Path) -> None:
    """A server that refuses from some moment on: one line, after the screen is gone."""
    with EmbeddedServer(tmp_path / "own") as server:
        prepared(server.url, "top:")
        grid_toml.write_text(TOML.format(prefix="top:", url=server.url))
        with at_terminal(grid_toml.parent, "top", "--interval", "0.2") as terminal:
            terminal.until(SILENT)
            command(server.url, "CONFIG", "SET", "requirepass", "secret")
            command(server.url, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", password="secret")
            assert terminal.end() == 78
            assert terminal.restored
            assert "Redis refuses the password" in terminal.text
            assert "Traceback" not in terminal.text


def command(url: str, *command: str, password: str | None = None) -> None:
    """Send one command to a server."""
    made: Any = sync_redis.Redis.from_url(url, password=password)
    made.execute_command(*command)
    made.close()


def test_keys_sort_pause_and_resize(grid_toml: Path) -> None:
    """Each key shows at once; a terminal that changes its size gets a frame that fits."""
    with at_terminal(grid_toml.parent, "top", "--interval", "60") as terminal:
        place = terminal.until("q quit")
        terminal.press("s")
        place = terminal.until("queue by age, nodes by name", place)
        terminal.press("n")
        place = terminal.until("queue by age, nodes by trouble", place)
        terminal.press(" ")
        place = terminal.until("paused for 0 s: not live", place)
        place = terminal.until("q quit", place)
        terminal.press("\x1b[B")
        end = terminal.until("q quit", place)
        assert "brain/cooling" in terminal.text[place:end]
        assert "brain/queued" not in terminal.text[place:end].partition("WAITING 2")[2]
        terminal.resize(40, 120)
        terminal.until("IN MEMORY", place)
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.restored


def test_ctrl_z_does_not_leave_the_screen_behind(grid_toml: Path) -> None:
    """It does nothing while the screen is drawn."""
    with at_terminal(grid_toml.parent, "top") as terminal:
        terminal.until("q quit")
        terminal.press("\x1a")
        terminal.press("s")
        terminal.until("queue by age")
        terminal.press("q")
        assert terminal.end() == 0


def test_without_keys_it_draws_until_a_signal(grid_toml: Path) -> None:
    """Its stdin is no terminal: it draws all the same."""
    with at_terminal(grid_toml.parent, "top", stdin=False) as terminal:
        terminal.until(SILENT)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert terminal.restored


@pytest.mark.everything
def test_redis_away_is_said_and_it_comes_back(home: Path, tmp_path: Path) -> None:
    """Killed: the screen says since when; started again: it goes on by itself."""
    with EmbeddedServer(tmp_path / "own") as server:
        prepared(server.url, "top:")
        (home / "streams.toml").write_text(TOML.format(prefix="top:", url=server.url))
        with at_terminal(home, "top", "--interval", "0.2") as terminal:
            terminal.until(SILENT)
            server.kill()
            place = terminal.until("Cannot hear Redis since ")
            server.start()
            terminal.until(SILENT, place)
            terminal.press("q")
            assert terminal.end() == 0
            assert terminal.restored
            assert "orion.gateway" not in terminal.text


def test_what_the_follower_logs_stays_off_the_screen() -> None:
    """While the screen is drawn, and only then."""
    log = logging.getLogger("orion.gateway")
    before = (list(log.handlers), log.propagate)
    with top_command.quiet():
        assert log.handlers
        assert not log.propagate
    assert (log.handlers, log.propagate) == before
