"""Commands of people on an installed machine: their copy of a password, and sudo where it takes root."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orion_streams import config as configuration
from orion_streams import environment
from orion_streams.cli import as_root
from orion_streams.cli.install.apply import Target
from orion_streams.cli.install.people import FOLDER, give_password, person_of
from orion_streams.errors import ConfigError

needs_root = pytest.mark.everything(where=os.geteuid() == 0)
UID = 61_234


@pytest.fixture
def machine() -> Iterator[Target]:
    """A machine with one person, in a folder that everybody may look into."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "home/pi").mkdir(parents=True)
        (root / "etc").mkdir()
        passwd = f"root:x:0:0:root:/root:/bin/sh\npi:x:{UID}:{UID}::/home/pi:/bin/bash\nodd\n"
        (root / "etc/passwd").write_text(passwd)
        if os.geteuid() == 0:
            os.chown(root / "home/pi", UID, UID)
        yield Target(folder, dry=False, say=lambda _: None)


@needs_root
def test_the_copy_is_theirs_alone(machine: Target) -> None:
    """Twice it changes nothing; a new password replaces the old one, a mode that is too wide is mended."""
    copy = machine.path(f"/home/pi/{FOLDER}/orion-owner")
    give_password(machine, "pi", "orion-owner", "one")
    held = copy.stat()
    assert (held.st_uid, stat.S_IMODE(held.st_mode), copy.read_text()) == (UID, 0o600, "one")
    give_password(machine, "pi", "orion-owner", "one")
    assert len(machine.changes.files) == 1 and copy.stat().st_ino == held.st_ino
    give_password(machine, "pi", "orion-owner", "two")
    copy.chmod(0o644)
    give_password(machine, "pi", "orion-owner", "two")
    assert (stat.S_IMODE(copy.stat().st_mode), copy.read_text()) == (0o600, "two")


@needs_root
def test_root_follows_no_link_of_theirs(machine: Target) -> None:
    """What a person has put into their home leads only where they may write themselves."""
    trap = machine.path("/etc/trap")
    trap.mkdir()
    machine.path("/home/pi/.config").symlink_to(trap)
    with pytest.raises(ConfigError, match="cannot be written as pi"):
        give_password(machine, "pi", "orion-owner", "secret")
    assert not list(trap.iterdir())


@pytest.mark.parametrize("name", ["", "root", "nobody", "odd"])
def test_nobody_else_gets_one(machine: Target, name: str) -> None:
    """Neither root, nor somebody unknown."""
    assert person_of(machine, name) is None
    give_password(machine, name, "orion-owner", "secret")
    assert not machine.changes.files


@needs_root
def test_a_password_that_is_another_s_is_read_from_the_own_copy(
    machine: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from the named file by who may read it; without a copy it is said what to do."""
    held = machine.path("/etc/passwords/orion-owner")
    held.parent.mkdir(mode=0o700)
    held.write_text("root")
    held.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(machine.path("/home/pi/.config")))
    monkeypatch.delenv("ORION_REDIS_PASSWORD", raising=False)

    def asked() -> str:
        return configuration.complete("redis://me@h", configuration.RedisConfig(password_file=str(held)))

    with being(UID), pytest.raises(ConfigError, match="sudo orion install"):
        asked()
    give_password(machine, "pi", "orion-owner", "copy")
    with being(UID):
        assert asked() == "redis://me:copy@h"
    assert asked() == "redis://me:root@h"


@contextlib.contextmanager
def being(user: int) -> Iterator[None]:
    """This process is another user's during the block."""
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_file_that_can_be_read_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever copy has its name."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ORION_REDIS_PASSWORD", raising=False)
    copy = tmp_path / "orion-streams/passwords/secret"
    copy.parent.mkdir(parents=True)
    for path, text in ((copy, "copy"), (tmp_path / "secret", "named")):
        path.write_text(text)
        path.chmod(0o600)
    named = configuration.RedisConfig(password_file=str(tmp_path / "secret"))
    assert configuration.complete("redis://me@h", named) == "redis://me:named@h"


@pytest.mark.parametrize(
    ("asks", "free", "goes_on"), [(True, 1, True), (False, 0, True), (False, 1, False)]
)
def test_the_same_command_goes_on_as_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asks: bool, free: int, goes_on: bool
) -> None:
    """Where sudo can ask, or need not; else the line is said. Root itself is asked for nothing."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\nexit {free}\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("ORION_COMMAND", "./orion")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: asks, raising=False)
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, words: ran.append(words))
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    if goes_on:
        as_root.become_root(["key", "add", "x"], "the keys are the gateway's")
        assert ran == [["sudo", "--", "./orion", "key", "add", "x"]]
    else:
        with pytest.raises(ConfigError, match=r"the keys are the gateway's: sudo \./orion key add x"):
            as_root.become_root(["key", "add", "x"], "the keys are the gateway's")
    ran.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    as_root.become_root(["key", "add", "x"], "")
    assert not ran


def test_what_goes_on_through_sudo_means_the_same_house(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, of which only names are told; and what is told can be pasted."""
    monkeypatch.setenv("ORION_COMMAND", "./orion")
    for name in environment.HOUSE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORION_REDIS_PASSWORD", "hidden")
    monkeypatch.setenv("ORION_CONFIG", "a.toml")
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, words: ran.append(words))
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    monkeypatch.setattr(as_root, "may_ask", lambda: True)
    as_root.become_root(["key", "add", "a b"], "why")
    assert ran == [
        ["sudo", "--preserve-env=ORION_CONFIG,ORION_REDIS_PASSWORD", "--", "./orion", "key", "add", "a b"]
    ]
    monkeypatch.setattr(as_root, "may_ask", lambda: False)
    line = "sudo --preserve-env=ORION_CONFIG,ORION_REDIS_PASSWORD ./orion key add 'a b'"
    with pytest.raises(ConfigError) as caught:
        as_root.become_root(["key", "add", "a b"], "why")
    assert str(caught.value) == f"why: {line}"


def test_a_copy_stands_for_a_file_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not for a name that was mistyped, or a file that was removed: that is to be seen."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    copy = tmp_path / "orion-streams/passwords/secret"
    copy.parent.mkdir(parents=True)
    copy.write_text("copy")
    named = tmp_path / "secret"
    assert environment.own_secret(named) == named
    named.write_text("named")
    assert environment.own_secret(named) == copy
