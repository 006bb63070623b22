"""The file of the gateway's keys: for its owner only, whole, and noticed when it changes."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.key_file import KeyFile, change, path_of, read
from orion_streams.config import Config
from orion_streams.errors import ConfigError
from orion_streams.gateway import keys
from orion_streams.gateway.keys import Key, KeyTable, digest_of, find, token_of, with_key


def token(n: int) -> str:
    """One of many tokens."""
    return token_of(n.to_bytes(32, "big"))


def add(path: Path, n: int) -> KeyTable:
    """One more key in the file."""
    key = Key(name=f"k{n}", client=f"key-k{n}", hash=digest_of(token(n)), created="2026-11-29")
    return change(path, lambda table: with_key(table, key))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the keys are to be, in a folder that is still to be made."""
    return tmp_path / "orion" / "keys.json"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_is_for_its_owner_only_and_holds_no_token(path: Path) -> None:
    """Whatever umask there is; the secret stays from key to key."""
    before = os.umask(0)
    try:
        secret = add(path, 1).secret
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert token(1) not in path.read_text()
    assert add(path, 2).secret == secret
    assert read(path) == add_nothing(path)
    assert sorted(each.name for each in path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def add_nothing(path: Path) -> KeyTable:
    """A change that changes nothing."""
    return change(path, lambda table: table)


def test_two_files_have_two_secrets(tmp_path: Path) -> None:
    """Nobody guesses one from another."""
    assert add(tmp_path / "a", 1).secret != add(tmp_path / "b", 1).secret


def test_a_change_that_fails_leaves_it_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by what it holds, or by the disk half-way: the old file, byte for byte, and no other."""
    add(path, 1)
    raw = path.read_bytes()
    with pytest.raises(ConfigError, match="there is a key k1"):
        add(path, 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
            add(path, 2)
    assert path.read_bytes() == raw
    assert sorted(each.name for each in path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def add_some(path: Path, start: int, barrier: Any) -> None:
    """Ten keys, at the same moment as the others."""
    barrier.wait()
    for n in range(start, start + 10):
        add(path, n)


def add_all_at_once(path: Path) -> set[str]:
    """Four processes with ten keys each. The names in the file."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    started = [context.Process(target=add_some, args=(path, n * 10, barrier)) for n in range(4)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    table = read(path)
    assert table is not None
    return {key.name for key in table.keys}


def test_of_changes_at_once_none_is_lost(path: Path) -> None:
    """Four processes add ten keys each."""
    assert add_all_at_once(path) == {f"k{n}" for n in range(40)}


def test_a_change_holds_the_lock(path: Path) -> None:
    """From before it reads until it has written; afterwards it is free."""
    lock = path.with_name("keys.json.lock")

    def is_free() -> bool:
        with lock.open("rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def look(table: KeyTable) -> KeyTable:
        assert not is_free()
        return table

    change(path, look)
    assert is_free()


def test_it_is_refused_when_others_can_read_it(path: Path) -> None:
    """By name, with the line that mends it; a change refuses it, too."""
    add(path, 1)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"others can read .*: chmod 600 {path}"):
            read(path)
        with pytest.raises(ConfigError, match="others can read"):
            add(path, 2)
    path.chmod(0o600)
    assert read(path) is not None


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"x" * (keys.MAX_FILE_BYTES + 1)])
def test_what_is_damaged_is_not_written_over(path: Path, raw: bytes) -> None:
    """One clear error, and the file stays for who mends it."""
    add(path, 1)
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"keys_file: .*keys.json is (damaged|larger)"):
        add(path, 2)
    assert path.read_bytes() == raw


def test_what_is_no_file_is_refused(path: Path) -> None:
    """A folder, a pipe: nothing waits for its other end."""
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(ConfigError, match="keys_file: "):
        read(path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="is damaged"):
        read(path)


def test_a_running_gateway_notices_a_change_within_a_second(path: Path) -> None:
    """It looks once a second at most, and reads what changed only."""
    clock = Clock()
    held = KeyFile(path, clock)
    assert held.current().table.keys == ()
    assert held.current().fault == ""
    add(path, 1)
    assert find(held.current().table, token(1)) is None, "not looked yet"
    assert find(held.current(at_once=True).table, token(1)) is not None
    clock.now_s += 1.0
    assert find(held.current().table, token(1)) is not None
    clock.now_s += 1.0
    same = held.current()
    clock.now_s += 1.0
    assert held.current() is same
    change(path, lambda table: keys.without_key(table, "k1"))
    clock.now_s += 1.0
    assert find(held.current().table, token(1)) is None


@pytest.mark.parametrize("harm", ["damaged", "open to others", "away"])
def test_while_it_cannot_be_read_no_key_counts(
    path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """It is said once, and once more when it is whole again; the secret stays meanwhile."""
    clock = Clock()
    held = KeyFile(path, clock)
    secret = add(path, 1).secret
    assert find(held.current().table, token(1)) is not None
    raw = path.read_bytes()
    with caplog.at_level(logging.WARNING, "orion.keys"):
        if harm == "damaged":
            path.write_bytes(raw[:-9])
        elif harm == "open to others":
            path.chmod(0o644)
        else:
            path.unlink()
        for _ in range(3):
            clock.now_s += 1.0
            now = held.current()
            assert (now.table.keys, now.table.secret) == ((), secret)
            assert bool(now.fault) is (harm != "away")
        assert caplog.text.count("until then no key is accepted") == (harm != "away")
        path.write_bytes(raw)
        path.chmod(0o600)
        clock.now_s += 1.0
        assert find(held.current().table, token(1)) is not None
        assert caplog.text.count("can be read again") == (harm != "away")
        assert secret not in caplog.text
        assert digest_of(token(1)) not in caplog.text


def test_where_it_is(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The configured place, else beside the embedded server's data."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert path_of(config) == tmp_path / "orion-streams" / "keys.json"
    rules = structs.replace(config.gateway, keys_file="~/keys")
    assert path_of(structs.replace(config, gateway=rules)) == Path("~/keys").expanduser()
