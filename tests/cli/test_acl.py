"""`orion acl`: what it prints, what it applies, and when it refuses."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from orion_streams.cli import acl_command as command
from orion_streams.runtime import acl
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.cli.conftest import Orion
from tests.conftest import SERVERS
from tests.needs import REDIS_SERVER
from tests.security.guarded import ADMIN, ADMIN_PASSWORD, ADMIN_RULES, binary, log_in, the_config

NAMES = [user.name for user in acl.users(the_config())]
BRAIN = "orion-client-brain"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of the test's own: users are the server's, not a prefix's."""
    with EmbeddedServer(tmp_path / "data", binary=binary(request.param)) as started:
        yield started


@pytest.fixture
def ask(server: EmbeddedServer) -> Iterator[Callable[..., Any]]:
    """A command to the server as default, answered as it comes."""
    client: Any
    with redis.Redis(port=server.port, protocol=2) as client:
        client.response_callbacks.clear()
        yield client.execute_command


def say(server: EmbeddedServer, name: str, password: str, *command: str) -> Any:
    """The answer to a command of that user, who has hung up again: an open connection is a leak."""
    with log_in(server, name, password) as client:
        return client.execute_command(*command)


@pytest.fixture
def apply(orion: Orion, server: EmbeddedServer, home: Path) -> Orion:
    """`orion acl --apply` there, with passwords in ./pw."""
    words = ("acl", "--apply", "--passwords", str(home / "pw"), "--redis", server.url)
    return lambda *more: orion(*words, *more)


def test_it_prints_without_any_server(orion: Orion) -> None:
    """A line per user and the one that disables default; no server is asked, no password made or shown."""
    code, out, err = orion("acl")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[2] for line in lines] == [*NAMES, "default"]
    assert all(line.split()[:2] == ["ACL", "SETUSER"] for line in lines)
    assert all(line.split()[3] == "reset" for line in lines[:-1])
    assert lines[-1] == "ACL SETUSER default off"
    assert "#" not in out
    assert "--passwords DIR" in err


def test_its_lines_are_redis_clis(orion: Orion, server: EmbeddedServer, ask: Any, home: Path) -> None:
    """Fed to the server line by line, as redis-cli splits them, they make exactly the users."""
    _, out, _ = orion("acl", "--passwords", str(home / "pw"))
    for line in out.splitlines()[:-1]:
        assert ask(*shlex.split(line)) == b"OK"
    for user in acl.users(the_config()):
        password = (home / "pw" / user.name).read_text()
        assert command.is_so(user.rules(acl.hashed(password)), ask("ACL", "GETUSER", user.name))
        assert say(server, user.name, password, "PING")


def test_a_users_password_is_made_once_kept_and_never_shown(apply: Orion, home: Path) -> None:
    """Files for the owner alone, the same after a second run; neither the password nor its hash is said."""
    assert apply()[0] == 0
    folder = home / "pw"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == set(NAMES)
    assert len(set(made.values())) == len(NAMES)
    assert all(len(password) == 64 for password in made.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    code, out, err = apply()
    assert code == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == made
    for password in made.values():
        assert password not in out + err
        assert acl.hashed(password) not in out + err


def test_to_apply_twice_changes_nothing_and_a_wider_user_is_narrowed(apply: Orion, ask: Any) -> None:
    """The same users after a second run; what was added to one is gone, and default is as it was."""
    ask("ACL", "SETUSER", BRAIN, "on", "nopass", "~*", "&*", "+@all")
    before = ask("ACL", "GETUSER", "default")
    code, out, err = apply()
    assert code == 0
    assert "default is as it was" in err
    assert ask("ACL", "GETUSER", "default") == before
    assert [line.split()[0] for line in out.splitlines()] == NAMES
    once = sorted(ask("ACL", "LIST"))
    assert not any(b"~*" in line or b"nopass" in line for line in once if b"user default" not in line)
    assert apply()[0] == 0
    assert sorted(ask("ACL", "LIST")) == once


def test_a_new_password_takes_the_place_of_the_old_one(
    apply: Orion, server: EmbeddedServer, home: Path
) -> None:
    """Remove the file and apply: the old password is refused from then on; the other users keep theirs."""
    apply()
    folder = home / "pw"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    (folder / BRAIN).unlink()
    assert apply(BRAIN)[0] == 0
    assert say(server, BRAIN, (folder / BRAIN).read_text(), "PING")
    with pytest.raises(redis.AuthenticationError):
        say(server, BRAIN, before[BRAIN], "PING")
    assert say(server, "orion-router", before["orion-router"], "PING")


def test_default_stays_when_nobody_could_undo_it(apply: Orion, ask: Any) -> None:
    """Without an administrator who can log in --disable-default is refused, and no user is set."""
    ask("ACL", "SETUSER", "no-password", "on", "~*", "+@all")
    ask("ACL", "SETUSER", "switched-off", "off", "nopass", "~*", "+@all")
    ask("ACL", "SETUSER", "no-right", "on", "nopass", "~*", "+@all", "-acl")
    before = sorted(ask("ACL", "LIST"))
    code, out, err = apply("--disable-default")
    assert (code, out) == (78, "")
    assert "ACL SETUSER admin on >PASSWORD ~* &* +@all" in err
    assert sorted(ask("ACL", "LIST")) == before


def test_default_is_disabled_and_comes_back(apply: Orion, server: EmbeddedServer, ask: Any) -> None:
    """With an administrator nobody gets in without a user; the administrator may undo it."""
    ask("ACL", "SETUSER", ADMIN, *ADMIN_RULES)
    code, out, _ = apply("--disable-default")
    assert code == 0
    assert out.splitlines()[-1].startswith("default")
    with pytest.raises(redis.AuthenticationError):
        say(server, "default", "", "PING")
    say(server, ADMIN, ADMIN_PASSWORD, "ACL", "SETUSER", "default", "on")
    assert say(server, "default", "", "PING")


def test_a_user_who_left_the_grid_is_named(apply: Orion, ask: Any) -> None:
    """A node that streams.toml no longer has may still log in: it is named, and not removed unasked."""
    for name in ("orion-agent-sold", "orion-client-old", "orion-friend", "orion2-agent-other"):
        ask("ACL", "SETUSER", name, "on")
    code, _, err = apply(BRAIN)
    assert code == 0
    said = [line.split()[1] for line in err.splitlines() if "ACL DELUSER" in line]
    assert said == ["orion-agent-sold", "orion-client-old"]
    assert b"orion-agent-sold" in ask("ACL", "USERS")


def test_json_is_one_line_with_everything(orion: Orion, apply: Orion) -> None:
    """Printed or applied: users and what was done; without an ACL file the server is said to forget."""
    code, out, _ = orion("acl", "--json")
    printed = msgspec.json.decode(out)
    assert (code, out.count("\n")) == (0, 1)
    assert [row["user"] for row in printed["users"]] == NAMES
    assert (printed["applied"], printed["default_disabled"], printed["saved"]) == (False, False, False)
    code, out, err = apply("--json", BRAIN)
    applied = msgspec.json.decode(out)
    assert (code, out.count("\n"), applied["applied"]) == (0, 1, True)
    assert [row["user"] for row in applied["users"]] == [BRAIN]
    assert BRAIN in err
    assert applied["saved"] is False
    assert "CONFIG REWRITE" in err


def test_who_may_not_set_users_is_told_what_to_do(
    orion: Orion, apply: Orion, server: EmbeddedServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role's user, a wrong password: exit 78, one line that names the way, no password in it."""
    apply()
    password = (home / "pw" / "orion-reader").read_text()
    for name, given in (("orion-reader", password), ("orion-reader", "wrong-one")):
        url = f"redis://{name}:{given}@127.0.0.1:{server.port}/0"
        monkeypatch.setenv("ORION_REDIS_URL", url)
        code, out, err = orion("acl", "--apply", "--passwords", str(home / "pw"))
        assert (code, out) == (78, "")
        assert "name an administrator" in err
        assert err.count("\n") == 1
        assert given not in err


def test_nobody_takes_his_own_rights_away(
    orion: Orion, server: EmbeddedServer, ask: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator with the name of a role is refused before anything is changed."""
    ask("ACL", "SETUSER", "orion-router", *ADMIN_RULES)
    before = sorted(ask("ACL", "LIST"))
    url = f"redis://orion-router:{ADMIN_PASSWORD}@127.0.0.1:{server.port}/0"
    monkeypatch.setenv("ORION_REDIS_URL", url)
    code, _, err = orion("acl", "--apply", "--passwords", str(home / "pw"))
    assert code == 78
    assert "orion-router would take its own rights away" in err
    assert sorted(ask("ACL", "LIST")) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("orion-client-nobody",), 78, "no such user of this grid (known: orion-client-brain, "),
        (("--apply",), 2, "--apply goes with --passwords DIR"),
        (("--disable-default",), 2, "--disable-default goes with --apply"),
        (("--format", "yaml"), 2, "expected setuser or aclfile"),
        (("--apply", "--passwords", "pw", "--redis", "redis://127.0.0.1:1"), 69, "does not answer"),
    ],
)
def test_a_wrong_wish_is_refused_in_words(
    orion: Orion, words: tuple[str, ...], code: int, said: str
) -> None:
    """Unknown users, options that need each other, no server: an exit code and what to do."""
    found, out, err = orion("acl", *words)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.write_text("\n"), "is empty"),
        (lambda path: path.write_bytes(b"\xff"), "cannot be used"),
        (lambda path: (path.unlink(), path.symlink_to("/nowhere")), "cannot be used"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be used"),
    ],
)
def test_a_password_file_that_is_no_secret_is_refused(
    orion: Orion, home: Path, spoil: Callable[[Path], object], said: str
) -> None:
    """Readable by others, empty, not text, no file: refused, and the file is left as it is."""
    orion("acl", "--passwords", str(home / "pw"))
    spoil(home / "pw" / BRAIN)
    code, out, err = orion("acl", "--passwords", str(home / "pw"))
    assert (code, out) == (78, "")
    assert said in err
    assert str(home / "pw" / BRAIN) in err
    assert "--passwords" not in err  # `orion install` says it too, and has no such option


def test_rules_that_the_server_does_not_have_are_seen(ask: Any) -> None:
    """Negative control: every rule left out or added, another password, a user who is switched off."""
    for user in acl.users(the_config()):
        rules = user.rules("a" * 64)
        ask("ACL", "SETUSER", user.name, *rules)
        assert command.is_so(rules, ask("ACL", "GETUSER", user.name))
        for index in range(2, len(rules)):
            less = [*rules[:index], *rules[index + 1 :]]
            assert not command.is_so(less, ask("ACL", "GETUSER", user.name)), rules[index]
        for more in ("+get", "~x", "nopass", "off", "(+get ~x)", f"#{'b' * 64}"):
            ask("ACL", "SETUSER", user.name, *rules, more)
            assert not command.is_so(rules, ask("ACL", "GETUSER", user.name)), more


@pytest.mark.everything
def test_an_acl_file_is_loaded_and_kept(orion: Orion, home: Path) -> None:
    """--format aclfile is what a server loads; where it has such a file, --apply saves the users."""
    program, users = home / "redis-with-users", home / "users.acl"
    program.write_text(f'#!/bin/sh\nexec {REDIS_SERVER} "$1" --aclfile {users}\n')
    program.chmod(0o700)
    passwords = ("--passwords", str(home / "pw"))
    _, out, _ = orion("acl", "--format", "aclfile", *passwords)
    users.write_text("".join(f"{line}\n" for line in out.splitlines() if "user default" not in line))
    with EmbeddedServer(home / "data", binary=program) as server:
        reader = log_in(server, "orion-reader", (home / "pw" / "orion-reader").read_text())
        assert reader.xlen("orion:log") == 0
        client: Any = redis.Redis(port=server.port, protocol=2)
        client.execute_command("ACL SETUSER", ADMIN, *ADMIN_RULES)
        client.execute_command("ACL DELUSER", "orion-router")
        code, out, _ = orion("acl", "--apply", *passwords, "--json", "--redis", server.url)
        assert (code, msgspec.json.decode(out)["saved"]) == (0, True)
        reader.close()
        client.close()
    with EmbeddedServer(home / "data", binary=program) as server:
        assert say(server, "orion-router", (home / "pw" / "orion-router").read_text(), "PING")


@pytest.mark.parametrize("clients", ["[clients.cli]", "[clients.owner]"])
def test_an_owner_who_is_no_operator_is_told(orion: Orion, home: Path, clients: str) -> None:
    """The user is there, its client is not, or may not cancel: the line that adds it is said."""
    node = "[nodes.pi]\n"
    (home / "own.toml").write_text(node + clients)
    _, out, err = orion("acl", "--config", str(home / "own.toml"))
    assert "ACL SETUSER orion-owner" in out
    assert "ACL SETUSER orion-client-owner" not in out, "the owner is the only writer of its streams"
    assert "orion-owner may look, and ask for nothing: add [clients.owner] with operator = true" in err
    _, _, err = orion("acl", "orion-router", "--config", str(home / "own.toml"))
    assert "orion-owner" not in err
    (home / "own.toml").write_text(f"{node}[clients.owner]\noperator = true")
    _, _, err = orion("acl", "--config", str(home / "own.toml"))
    assert "orion-owner" not in err


def test_a_password_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one who was killed as he made it nothing counts; of two at once the first one's does."""

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    def faster(_: int) -> None:
        (tmp_path / "b").write_text("theirs")
        (tmp_path / "b").chmod(0o600)

    with monkeypatch.context() as now:
        now.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            command.password(tmp_path, "a")
        assert not (tmp_path / "a").exists()
        now.setattr(os, "fsync", faster)
        assert command.password(tmp_path, "b") == "theirs"
    (tmp_path / f".a.{os.getpid()}").write_text("half")
    assert len(command.password(tmp_path, "a")) == 64
    assert command.password(tmp_path, "a") == command.password(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
