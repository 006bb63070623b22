"""How commands end: 0 ok, 1 failed, 2 usage, 69 no backend, 78 bad configuration, 130 interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from orion_streams.cli import grid_discovery
from orion_streams.cli.outcome import outcome
from orion_streams.client.calls import RequestExpiredError, RequestFailedError, RequestRejectedError
from orion_streams.errors import OrionError
from orion_streams.runtime.embedded_server import free_port
from tests.cli.conftest import Orion
from tests.cli.run_cli import environment, finish, run, start
from tests.helpers import WAIT_S

READS = (
    ["nodes"],
    ["models", "--json"],
    ["ps"],
    ["plan", "--json"],
    ["doctor"],
    ["explain", "q1"],
    ["explain", "--last"],
    ["requests"],
    ["top", "--once"],
    ["replay"],
    ["log", "--follow"],
    ["ask", "Why?"],
    ["chat"],
    ["agent", "--node", "x"],
)


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_without_a_grid_the_next_step_is_named(orion: Orion, words: list[str]) -> None:
    """No URL and no grid on this machine: exit 69 and one line that says how to get one."""
    code, out, err = orion(*words)
    assert (code, out) == (69, "")
    assert err == (
        "orion: no grid is running here: start one with `orion up --simulated` "
        "or name one with --redis URL\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["explain"], ["rm"], ["pull"], ["drain"], ["resume"], ["log", "--node"], ["log", "--event"],
        ["log", "--request"], ["log", "--model", "m", "--model"], ["requests", "--client"],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_name(orion: Orion, words: list[str], name: str) -> None:
    """It is refused before anything is asked or ordered."""
    code, out, err = orion(*words, name)
    assert (code, out) == (2, "")
    assert "it is empty: expected a name" in err


def test_an_empty_question_is_not_asked(orion: Orion) -> None:
    """It is refused before anybody is looked for; an image may stand alone."""
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    code, out, err = orion("ask", " ", "--redis", nobody)
    assert (code, out) == (78, "")
    assert err.startswith("orion: the question is empty: ")
    assert orion("ask", "Why?", "--redis", nobody)[0] == 69


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RequestRejectedError("i1", "bad_field", "model: missing"), "model: missing (bad_field)"),
        (RequestFailedError("i1", "refused", "It says no."), "It says no. (refused, request i1)"),
        (RequestExpiredError("i1", "expired"), "expired (request i1)"),
    ],
)
def test_a_sentence_stands_before_codes_and_ids(
    error: OrionError, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person reads what is wrong first; a program has the fields."""

    def fail() -> None:
        raise error

    assert outcome(fail) == error.exit_code
    assert capsys.readouterr().err == f"orion: {told}\n"


@pytest.mark.parametrize("words", [["nodes"], ["ask", "Why?", "--json"]], ids=" ".join)
def test_a_dead_server_is_no_backend(orion: Orion, words: list[str]) -> None:
    """Nobody listens at the URL: exit 69, one line, no traceback."""
    code, out, err = orion(*words, "--redis", f"redis://127.0.0.1:{free_port()}/0")
    assert (code, out) == (69, "")
    assert err.count("\n") == 1
    assert "does not answer" in err


@pytest.mark.parametrize("option", ["foo=bar", "protocol=99", "db=x", "single_connection_client=1"])
def test_an_option_of_a_url_that_is_none_is_refused(orion: Orion, valkey_url: str, option: str) -> None:
    """Also where a server listens: exit 78, one line; beside it one that there is."""
    code, out, err = orion("nodes", "--redis", f"{valkey_url}?{option}")
    assert (code, out, err.count("\n")) == (78, "", 1)
    assert "redis.url: expected a URL, e.g." in err
    assert orion("nodes", "--redis", f"{valkey_url}?health_check_interval=1")[0] == 69


def test_what_is_quoted_moves_no_cursor(orion: Orion, home: Path) -> None:
    """A name from a file of somebody else reaches a terminal as letters only."""
    (home / "streams.toml").write_text('"\\u001b[2J" = 1\n[nodes.pi]\n')
    code, out, err = orion("nodes")
    assert (code, out) == (78, "")
    assert "\\x1b[2J: no such key" in err and "\x1b" not in err


@pytest.mark.parametrize("words", [["nodes"], ["log", "archive", "kept"]], ids=" ".join)
def test_an_empty_redis_has_no_grid(orion: Orion, valkey_url: str, home: Path, words: list[str]) -> None:
    """A server on which no router ever ran: exit 69, the key that is empty, and nothing is made."""
    (home / "streams.toml").write_text('prefix = "nobody:"\n[nodes.one]\n')
    code, _, err = orion(*words, "--redis", valkey_url)
    assert code == 69
    assert "nobody:log is empty" in err
    assert not (home / "kept").exists()


@pytest.mark.parametrize(
    "text", ["[redis]\nurl = 5", "[nodes.one]\nslots = 0", "nonsense", "[policy]\nhot = 1"]
)
@pytest.mark.parametrize("command", ["nodes", "router", "up", "doctor"])
def test_a_bad_configuration_is_78(orion: Orion, home: Path, command: str, text: str) -> None:
    """A streams.toml that cannot be used: exit 78, and one line that names the file."""
    (home / "streams.toml").write_text(text)
    code, out, err = orion(command)
    assert (code, out) == (78, "")
    assert err.startswith("orion: streams.toml: ")
    assert err.count("\n") == 1


def test_an_unknown_node_is_78(orion: Orion, valkey_url: str) -> None:
    """An agent of a node that is not configured: exit 78, and the known ones."""
    code, _, err = orion("agent", "--node", "nowhere", "--redis", valkey_url)
    assert code == 78
    assert "nodes.nowhere" in err
    assert "orion-edge, orion-master, orion-worker" in err


def test_roles_must_be_chosen_on_a_strange_machine(
    orion: Orion, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`orion up` on a machine that is no node: exit 78, and how to choose."""
    monkeypatch.setattr("socket.gethostname", lambda: "laptop.home")
    code, _, err = orion("up")
    assert code == 78
    assert "this machine is called laptop" in err
    assert "--roles" in err
    assert "--simulated" in err


@pytest.mark.parametrize(
    "words",
    [
        ["nodes", "--nope"],
        ["nonsense"],
        ["ask"],
        ["explain"],
        ["log", "-n", "many"],
        ["log", "--from", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(orion: Orion, words: list[str]) -> None:
    """What cannot be understood: exit 2, the reason on stderr, nothing on stdout."""
    code, out, err = orion(*words)
    assert (code, out) == (2, "")
    assert "Error" in err


@pytest.mark.parametrize("command", ["router", "agent"])
def test_wrong_usage_of_a_role_is_2(home: Path, command: str) -> None:
    """The same for the processes of a grid, whose arguments are read without the terminal's libraries."""
    code, out, err = run(home, command, "--nope")
    assert (code, out) == (2, "")
    assert "usage:" in err


COMMANDS = [
    *("demo", "test", "up", "router", "agent", "ask", "nodes", "models", "ps", "plan", "explain", "replay"),
    *("log", "bench", "doctor", "chat"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--help exits 0 and shows an example that begins with the command itself."""
    from orion_streams.cli import main  # noqa: PLC0415 - the one command line

    try:
        code = main([command, "--help"])
    except SystemExit as end:  # argparse's way
        code = int(end.code or 0)
    out = capsys.readouterr().out
    assert code == 0
    assert re.search(rf"^ +orion {command}", out, re.MULTILINE)


def test_the_help_lists_all_commands(orion: Orion) -> None:
    """`orion --help` names every command."""
    code, out, _ = orion("--help")
    assert code == 0
    assert [each for each in COMMANDS if f"\n  {each} " not in out] == []


def test_the_note_of_a_dead_grid_does_not_count(orion: Orion, home: Path) -> None:
    """What a killed `orion up` left behind is seen to be stale."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = grid_discovery.note_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(
        msgspec.json.encode(grid_discovery.Running(ended.pid, "redis://127.0.0.1:1/0", "", True))
    )
    code, _, err = orion("nodes")
    assert code == 69
    assert "no grid is running here" in err


def test_a_later_grids_note_is_left_alone(home: Path) -> None:
    """Of two grids the later is found, and the end of the earlier takes nothing away."""
    first = grid_discovery.Running(os.getpid(), "redis://127.0.0.1:1/0", "", True)
    second = grid_discovery.Running(os.getpid(), "redis://127.0.0.1:2/0", "", True)
    with grid_discovery.noted(second):
        with grid_discovery.noted(first):
            assert grid_discovery.running_here() == first
            grid_discovery.note_path().write_bytes(msgspec.json.encode(second))
        assert grid_discovery.running_here() == second
    assert grid_discovery.running_here() is None


def test_ctrl_c_is_quiet(home: Path, grid_toml: Path) -> None:
    """An interrupt ends a command that follows with 130, no traceback, and what it wrote is whole."""
    following = start(home, "log", "--follow", "--from", "1", "--json", ORION_CONFIG=str(grid_toml))
    assert following.stdout is not None
    first = msgspec.json.decode(following.stdout.readline())
    following.send_signal(signal.SIGINT)
    code, _, err = finish(following)
    assert first["position"] == 1
    assert code == 130
    assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_error(home: Path, grid_toml: Path) -> None:
    """Whoever reads a command's output may leave before it comes: exit 0, without a word."""
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f"'{sys.executable}' -m orion_streams.cli log --from 1 | :; echo ${{PIPESTATUS[0]}}",
        ],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


@pytest.mark.parametrize("command", ["test", "chaos", "simulate --faults"])
def test_without_a_checkout_a_command_says_that_it_needs_one(
    orion: Orion, home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """What only a checkout has ends with exit code 78 elsewhere, and one line that names the command."""
    monkeypatch.setattr("orion_streams.__file__", str(home / "orion_streams" / "__init__.py"))
    code, out, err = orion(*command.split())
    assert (code, out, err.count("\n")) == (78, "", 1)
    assert f"run `./orion {command}` in one" in err


def test_the_tests_run_with_pytests_exit_code(home: Path) -> None:
    """`orion test` passes its arguments to pytest and ends as pytest does: 4 for wrong usage."""
    code, _, err = run(home, "test", "-k", "json", "--override-ini")
    assert code == 4
    assert "--override-ini: expected one argument" in err


def test_the_version_is_said(orion: Orion) -> None:
    """`orion --version` is one line on stdout."""
    code, out, _ = orion("--version")
    assert code == 0
    assert re.fullmatch(r"orion-streams \d+\.\d+\.\d+\n", out)
