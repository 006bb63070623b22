"""Passwords come by environment, file or streams.toml, and are never seen anywhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from orion_streams.config import load
from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_NO_BACKEND, ConfigError
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.cli.conftest import Orion
from tests.cli.run_cli import TOML, descendants, finish, prepared, run, start
from tests.cli.test_up import LOCAL, Up

MARK = "marked-Passw0rd"
COMMANDS = [
    "nodes",
    "ask Why?",
    "log",
    "replay",
    "explain q",
    "up --roles router",
    "router",
    "agent --node master",
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with a log, where only the user `boss` may do anything, by the marked password."""
    with EmbeddedServer(tmp_path_factory.mktemp("guarded")) as server:
        prepared(server.url, "secret:")
        admin: Any = Redis(port=server.port)
        admin.execute_command("ACL", "SETUSER", "boss", "on", f">{MARK}", "~*", "&*", "+@all")
        admin.execute_command("ACL", "SETUSER", "default", "off")
        yield server
        boss: Any = Redis(port=server.port, username="boss", password=MARK)
        boss.execute_command("ACL", "SETUSER", "default", "on")
        boss.close()
        admin.close()


def write_toml(home: Path, url: str, more: str = "") -> None:
    """./streams.toml of that log's grid."""
    text = TOML.format(prefix="secret:", url=url)
    (home / "streams.toml").write_text(text.replace("[policy]", f"{more}\n[policy]"))


def write_secret(home: Path, text: str, url: str = "redis://h", mode: int = 0o600) -> Path:
    """A file with a password, which ./streams.toml names."""
    secret = home / "secret"
    secret.write_text(text)
    secret.chmod(mode)
    write_toml(home, url, f'password_file = "{secret}"')
    return secret


def as_boss(server: EmbeddedServer, secret: str = "") -> str:
    """The server's URL with the user's name, perhaps with a password."""
    return server.url.replace("//", f"//boss{':' + secret if secret else ''}@")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_on_a_command_line_is_refused(orion: Orion, command: str) -> None:
    """Exit 78 and one line that says where it belongs, without it: argv is seen by everybody."""
    code, out, err = orion(*command.split(), "--redis", f"redis://boss:{MARK}@127.0.0.1:1/0")
    assert (code, out, err.count("\n")) == (EXIT_BAD_CONFIG, "", 1)
    assert "ORION_REDIS_PASSWORD" in err
    assert "redis.password_file" in err
    assert MARK not in err


@pytest.mark.parametrize("how", ["environment", "file", "url in the file", "url in the environment"])
def test_where_a_password_may_come_from(
    home: Path, orion: Orion, guarded: EmbeddedServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, file and either URL open the same door; without any, exit 78 says where one belongs."""
    write_toml(home, as_boss(guarded))
    code, _, err = orion("nodes")
    assert (code, "ORION_REDIS_PASSWORD" in err) == (EXIT_BAD_CONFIG, True)
    match how:
        case "environment":
            monkeypatch.setenv("ORION_REDIS_PASSWORD", MARK)
        case "file":
            write_secret(home, MARK + "\n", as_boss(guarded))
        case "url in the file":
            write_toml(home, as_boss(guarded, MARK))
        case _:
            monkeypatch.setenv("ORION_REDIS_URL", as_boss(guarded, MARK))
    code, out, err = orion("nodes", "--json")
    assert (code, MARK in out + err) == (0, False)


def test_the_environment_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment goes before the file, the file before the URL; set and empty, the URL stays."""
    write_secret(home, "of-file", "redis://u:of-url@h")
    assert load().redis.url == "redis://u:of-file@h"
    monkeypatch.setenv("ORION_REDIS_PASSWORD", "of-environment")
    assert load().redis.url == "redis://u:of-environment@h"
    monkeypatch.setenv("ORION_REDIS_PASSWORD", "")
    assert load().redis.url == "redis://u:of-url@h"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_password_file_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    """ConfigError with the line that mends it."""
    secret = write_secret(home, MARK, mode=mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {secret}"):
        load()
    secret.chmod(0o600)
    assert load().redis.url == f"redis://:{MARK}@h"


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n"])
def test_a_password_file_holds_one_line(home: Path, text: str) -> None:
    """ConfigError for an empty file or several lines, without what they say."""
    write_secret(home, text)
    with pytest.raises(ConfigError, match="expected one line") as caught:
        load()
    assert "two" not in str(caught.value)


def test_a_running_grid_shows_its_password_to_nobody(home: Path, guarded: EmbeddedServer) -> None:
    """It is in no command line and no output, and in the grid's note for its owner alone."""
    write_toml(home, as_boss(guarded))
    (home / "streams.toml").rename(home / "house.toml")
    env = {"ORION_REDIS_PASSWORD": MARK, "ORION_LOG": "debug"}
    up = Up(home, "--roles", "router,agent:master", "--config", "house.toml", **env)
    try:
        assert up.ready["redis_url"] == as_boss(guarded)
        running = [psutil.Process(up.process.pid), *descendants(up.process.pid)]
        assert len(running) == 3
        assert not any(MARK in word for process in running for word in process.cmdline())
        note = home / "orion-streams" / "up.json"
        assert (note.stat().st_mode & 0o777, MARK in note.read_text()) == (0o600, True)
        code, out, err = run(home, "nodes")
        assert (code, MARK in out + err) == (0, False)
    finally:
        code, out, err = up.end(signal.SIGTERM)
    assert (code, MARK in out + err) == (0, False)
    assert "leading from position" in err


def test_the_embedded_server_needs_none(home: Path) -> None:
    """A password that is set for the house's Redis is not sent to the grid's own server, which has none."""
    (home / "streams.toml").write_text(LOCAL)
    up = Up(home, "--roles", "router,agent:here", ORION_REDIS_PASSWORD=MARK)
    try:
        code, _, err = run(home, "nodes", ORION_REDIS_PASSWORD=MARK)
        assert code == 0, err
    finally:
        code, out, err = up.end(signal.SIGTERM)
    assert (code, MARK in out + err) == (0, False)


def test_the_hints_show_no_password(home: Path, guarded: EmbeddedServer) -> None:
    """What `orion up` says to a person has lines to paste, with the user and without the password."""
    write_toml(home, as_boss(guarded, MARK))
    process = start(home, "up", "--roles", "router")
    assert process.stdout is not None
    said = "".join(iter(process.stdout.readline, "  stop      Ctrl-C\n"))
    process.send_signal(signal.SIGTERM)
    _, out, err = finish(process)
    assert f"redis-cli -u {as_boss(guarded)} XADD" in said
    assert MARK not in said + out + err


@pytest.mark.parametrize("command", ["nodes", "ask Why? --model m"])
def test_a_wrong_password_is_refused_by_commands(
    orion: Orion, home: Path, guarded: EmbeddedServer, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 78; the line does not hold it."""
    write_toml(home, as_boss(guarded, f"wrong-{MARK}"))
    monkeypatch.setenv("ORION_LOG", "debug")
    code, out, err = orion(*command.split())
    assert (code, MARK in out + err) == (EXIT_BAD_CONFIG, False)


@pytest.mark.parametrize("command", ["router", "agent --node master"])
def test_a_wrong_password_is_refused_and_not_shown(
    home: Path, guarded: EmbeddedServer, command: str
) -> None:
    """Exit 78; neither the line nor the log of a process holds it."""
    write_toml(home, as_boss(guarded, f"wrong-{MARK}"))
    code, out, err = run(home, *command.split(), ORION_LOG="debug")
    assert (code, MARK in out + err) == (EXIT_BAD_CONFIG, False)


@pytest.mark.parametrize(
    "place", ["boss:{}@127.0.0.1:1/0", "boss:{}/slash@127.0.0.1:1/0", "boss:{}@[::1/0"]
)
@pytest.mark.parametrize("command", ["nodes", "ps", "ask Why? --model m"])
def test_a_server_that_is_away_shows_no_password(
    orion: Orion, command: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens there, or the URL is none: the line names the place at most."""
    monkeypatch.setenv("ORION_REDIS_URL", "redis://" + place.format(MARK))
    code, out, err = orion(*command.split())
    assert code in (EXIT_NO_BACKEND, EXIT_BAD_CONFIG)
    assert (MARK in out + err, "Traceback" in err) == (False, False)


def test_a_router_that_waits_shows_no_password(home: Path) -> None:
    """Nobody listens there: the line that says so names the place at most."""
    waiting = start(home, "router", ORION_REDIS_URL=f"redis://boss:{MARK}@127.0.0.1:1/0")
    assert waiting.stderr is not None
    said = waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _, out, err = finish(waiting)
    assert "waiting for it" in said
    assert (MARK in said + out + err, "Traceback" in err) == (False, False)
