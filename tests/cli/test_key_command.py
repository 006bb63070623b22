"""`orion key`: keys are made, listed and removed, and a key is said once."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec
import pytest

from orion_streams.agents.key_file import read
from orion_streams.cli import key_command
from orion_streams.cli.grid_discovery import Running, noted
from orion_streams.gateway.keys import MAX_NAME, Key, find
from orion_streams.model.gateway_rules import Place
from tests.cli.conftest import Orion

TOKEN = re.compile(r"orion-[A-Za-z0-9_-]{43}")
WIDE = '[nodes.pi]\n[gateway]\nlisten = "0.0.0.0:11500"\n'


@pytest.fixture
def file(home: Path) -> Path:
    """Where the keys are by default."""
    return home / "orion-streams" / "keys.json"


def key_of(file: Path, said: str) -> Key:
    """The key whose token stands in what was said, once or oftener."""
    [token] = {*TOKEN.findall(said)}
    table = read(file)
    assert table is not None
    key = find(table, token)
    assert key is not None
    return key


def test_a_key_is_made_and_said_once(orion: Orion, file: Path) -> None:
    """With the URL; the file is for the owner only and holds no token, and no list says it again."""
    code, out, err = orion("key", "add", "anna")
    assert code == 0
    assert out.startswith("URL  http://127.0.0.1:11435\nKey  orion-")
    key = key_of(file, out)
    assert (key.name, key.client, key.priority, key.max_priority, key.view_only) == (
        "anna",
        "key-anna",
        0,
        9,
        False,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", key.created)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "is not shown again" in err
    assert "the gateway listens on this machine only" in err
    for words in (("key", "list"), ("key", "list", "--json")):
        code, out, _ = orion(*words)
        assert (code, "anna" in out, TOKEN.search(out), key.hash in out) == (0, True, None, False)
    assert not TOKEN.search(file.read_text())


def test_a_key_for_looking_only_is_for_a_browser(orion: Orion) -> None:
    """It is told the page to open; a key that may ask is told how to ask."""
    _, looks, _ = orion("key", "add", "wall", "--view-only")
    assert "Open http://127.0.0.1:11435/ in a browser" in looks
    assert "curl" not in looks
    _, asks, _ = orion("key", "add", "anna")
    assert "curl http://127.0.0.1:11435/v1/models" in asks
    assert "browser" not in asks


def test_two_keys_are_two(orion: Orion, file: Path) -> None:
    """Each with a token, a client and rights of its own."""
    _, one, _ = orion("key", "add", "one", "--priority", "-3")
    _, two, _ = orion("key", "add", "two", "--view-only", "--sees-all", "--priority", "5")
    assert {*TOKEN.findall(one)}.isdisjoint(TOKEN.findall(two))
    keys = [key_of(file, said) for said in (one, two)]
    assert [(key.priority, key.max_priority, key.view_only, key.sees_all) for key in keys] == [
        (-3, -3, False, False),
        (5, 5, True, True),
    ]
    _, out, _ = orion("key", "list")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["one", "key-one"], ["two", "key-two"]]
    assert "look, see all" in out.splitlines()[2]
    assert "see all" not in out.splitlines()[1]


def test_a_key_as_data(orion: Orion, file: Path) -> None:
    """One line each, and nothing else on stdout."""
    code, out, _ = orion("key", "add", "wall", "--json")
    said = msgspec.json.decode(out)
    assert (code, out.count("\n"), said.keys()) == (0, 1, {"name", "client", "url", "key"})
    assert key_of(file, out).client == said["client"] == "key-wall"
    listed = msgspec.json.decode(orion("key", "list", "--json")[1])
    assert (listed["file"], [row["name"] for row in listed["keys"]]) == (str(file), ["wall"])
    assert msgspec.json.decode(orion("key", "rm", "wall", "--json")[1]) == {
        "name": "wall",
        "client": "key-wall",
    }
    assert msgspec.json.decode(orion("key", "list", "--json")[1])["keys"] == []


def test_a_key_is_removed(orion: Orion, file: Path) -> None:
    """It is no longer found; the others stay."""
    _, out, _ = orion("key", "add", "anna")
    orion("key", "add", "ben")
    [token] = {*TOKEN.findall(out)}
    assert orion("key", "rm", "anna")[:2] == (0, "anna is removed\n")
    table = read(file)
    assert table is not None
    assert find(table, token) is None
    assert [key.name for key in table.keys] == ["ben"]


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("add", "Anna"), 78, "'Anna': NAME: expected small letters, digits, - and _; at most 59"),
        (("add", "a" * (MAX_NAME + 1)), 78, "NAME: expected small letters"),
        (("add", "../x"), 78, "NAME: expected small letters"),
        (("add", ""), 78, "NAME: expected small letters"),
        (("add", "there"), 78, "there is a key there: remove it first (orion key rm there)"),
        (("add", "x", "--priority", "10"), 2, "--priority"),
        (("add", "x", "--for", "emacs"), 2, "expected open-webui or home-assistant"),
        (("rm", "nobody"), 78, "nobody: no such key (known: there)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    orion: Orion, file: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    """And what to do; the file stays as it is."""
    orion("key", "add", "there")
    before = file.read_bytes()
    found, out, err = orion("key", *words)
    assert (found, out) == (code, "")
    assert why in " ".join(err.split())
    assert file.read_bytes() == before


def test_the_longest_name_there_is(orion: Orion, file: Path) -> None:
    """Its client still has a name that streams may have."""
    assert orion("key", "add", "a" * MAX_NAME)[0] == 0
    table = read(file)
    assert table is not None
    assert len(table.keys[0].client) == 63


def test_without_a_file_there_are_no_keys(orion: Orion, file: Path) -> None:
    """A list makes none."""
    code, out, _ = orion("key", "list")
    assert (code, out) == (0, f"no keys in {file}: orion key add NAME makes one\n")
    code, _, err = orion("key", "rm", "anna")
    assert (code, err) == (78, f"orion: 'anna': no such key: there is no file {file}\n")
    assert not file.exists()


@pytest.mark.parametrize("words", [("key", "list"), ("key", "add", "x"), ("key", "rm", "x")])
def test_a_file_that_others_can_read_is_refused(orion: Orion, file: Path, words: tuple[str, ...]) -> None:
    """With the line that mends it; so is one that is damaged."""
    orion("key", "add", "anna")
    file.chmod(0o644)
    code, _, err = orion(*words)
    assert (code, err.count("\n")) == (78, 1)
    assert f"chmod 600 {file}" in err
    file.chmod(0o600)
    file.write_text("{")
    code, _, err = orion(*words)
    assert (code, err.count("\n")) == (78, 1)
    assert "is damaged" in err


def test_the_configured_place_and_url(orion: Orion, home: Path) -> None:
    """By streams.toml; a gateway on all addresses is reached by this machine's name."""
    (home / "streams.toml").write_text(f'{WIDE}keys_file = "{home / "here.json"}"\n')
    code, out, err = orion("key", "add", "anna")
    assert (code, (home / "here.json").exists()) == (0, True)
    assert out.startswith(f"URL  {key_command.url_of(Place('0.0.0.0', 11_500))}\n")
    assert "this machine only" not in err
    assert key_command.url_of(Place("0.0.0.0", 1), "orion-master") == "http://orion-master:1"
    assert key_command.url_of(Place("::", 1), "orion-master") == "http://orion-master:1"
    assert key_command.url_of(Place("192.168.1.5", 1)) == "http://192.168.1.5:1"
    assert key_command.url_of(Place("fd00::5", 1)) == "http://[fd00::5]:1"


def test_what_to_paste_into_open_webui(orion: Orion, home: Path) -> None:
    """A line for a container, which finds this machine by docker's name for it, with this key."""
    (home / "streams.toml").write_text(WIDE)
    _, out, _ = orion("key", "add", "chat", "--for", "open-webui")
    [token] = {*TOKEN.findall(out)}
    assert "OPENAI_API_BASE_URL=http://host.docker.internal:11500/v1" in out
    assert f"OPENAI_API_KEY={token}" in out
    assert "ENABLE_FORWARD_USER_INFO_HEADERS=true" in out
    assert "--add-host=host.docker.internal:host-gateway" in out


def test_what_to_enter_in_home_assistant(orion: Orion, home: Path) -> None:
    """URL and key, the header of its sensors, and what to do where there is no field for a key."""
    (home / "streams.toml").write_text(WIDE)
    _, out, _ = orion("key", "add", "house", "--for", "home-assistant")
    [token] = {*TOKEN.findall(out)}
    assert f"API key  {token}" in out
    assert f'Authorization: "Bearer {token}"' in out
    assert "[gateway.addresses]" in out


def test_a_key_needs_no_server_and_no_password(orion: Orion, home: Path) -> None:
    """Whoever makes keys need not be able to reach Redis."""
    (home / "streams.toml").write_text(
        '[nodes.pi]\n[redis]\nurl = "redis://127.0.0.1:1/0"\npassword_file = "/nowhere"\n'
    )
    assert orion("key", "add", "anna")[0] == 0


def test_beside_a_running_grid_its_keys_are_meant(orion: Orion, home: Path, file: Path) -> None:
    """As other commands mean that grid; a configuration that is named goes before it."""
    (home / "grid.toml").write_text(f'[nodes.pi]\n[gateway]\nkeys_file = "{home / "grid.json"}"\n')
    running = Running(os.getpid(), "redis://127.0.0.1:1/0", str(home / "grid.toml"), simulated=True)
    with noted(running):
        assert orion("key", "add", "anna")[0] == 0
        assert ((home / "grid.json").exists(), file.exists()) == (True, False)
        (home / "own.toml").write_text("[nodes.pi]\n")
        assert orion("key", "add", "anna", "--config", "own.toml")[0] == 0
        assert file.exists()


def test_keys_of_a_simulated_grid_end_with_it(orion: Orion, home: Path) -> None:
    """It is said of which grid they are; and that it cannot listen elsewhere."""
    listen = 'listen = "127.0.0.1:11999"'
    (home / "grid.toml").write_text(f'[nodes.pi]\n[gateway]\n{listen}\nkeys_file = "{home / "g.json"}"\n')
    for simulated in (True, False):
        running = Running(os.getpid(), "redis://127.0.0.1:1/0", str(home / "grid.toml"), simulated)
        with noted(running):
            for words in (("add", f"anna{simulated:d}"), ("list",), ("rm", f"anna{simulated:d}")):
                for more in ((), ("--config", "grid.toml")):
                    if more and words[0] != "list":
                        continue
                    code, _, err = orion("key", *words, *more)
                    assert (code, "of the simulated grid that runs here" in err) == (0, simulated)
            _, _, err = orion("key", "add", f"chat{simulated:d}", "--for", "open-webui")
            assert ("a simulated one cannot listen elsewhere" in err) is simulated
            assert (f'set gateway.listen, e.g. to "0.0.0.0:11999", in {home / "grid.toml"}' in err) is (
                not simulated
            )
            assert "no grid runs here" not in err


def test_without_a_grid_a_key_is_for_the_next_one(orion: Orion, home: Path, file: Path) -> None:
    """It is said; not of a grid whose server is somewhere, nor beside one that runs here."""
    _, _, err = orion("key", "add", "anna")
    assert f"no grid runs here now: the key, in {file}, is for the one that `orion up` starts" in err
    (home / "streams.toml").write_text('[nodes.pi]\n[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    assert "no grid runs here" not in orion("key", "add", "ben")[2]
    (home / "streams.toml").write_text("[nodes.pi]\n")
    with noted(Running(os.getpid(), "redis://127.0.0.1:1/0", "", simulated=False)):
        assert "no grid runs here" not in orion("key", "add", "carl")[2]
        assert "no grid runs here" in orion("key", "add", "dora", "--config", "streams.toml")[2]


def test_what_nobody_can_reach_is_said_before_what_to_enter(
    orion: Orion, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to set, and where: else a container's line is copied that cannot work."""
    said: list[str] = []
    monkeypatch.setattr(key_command, "tell", said.append)
    monkeypatch.setattr(key_command, "write", said.append)
    (home / "own.toml").write_text("[nodes.pi]\n")
    orion("key", "add", "chat", "--for", "open-webui", "--config", "own.toml")
    begin = next(at for at, line in enumerate(said) if "no container reaches it" in line)
    assert 'First set gateway.listen, e.g. to "0.0.0.0:11435", in own.toml' in said[begin]
    assert begin < next(at for at, line in enumerate(said) if line.startswith("URL"))
    assert begin < next(at for at, line in enumerate(said) if "docker run" in line)
    (home / "own.toml").write_text(WIDE)
    said.clear()
    orion("key", "add", "wide", "--for", "open-webui", "--config", "own.toml")
    assert not any("no container reaches it" in line for line in said)
