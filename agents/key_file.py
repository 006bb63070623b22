"""The file of the gateway's keys: read when it changed, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from orion_streams.config import Config
from orion_streams.environment import user_folder
from orion_streams.errors import ConfigError, why
from orion_streams.gateway import keys
from orion_streams.gateway.keys import KeyTable

log = logging.getLogger("orion.keys")

LOOK_EVERY_S = 1.0
Stamp = tuple[int, ...]
"""What changes when a file is written, replaced, or opened to others."""


def path_of(config: Config) -> Path:
    """Return where the keys are: `gateway.keys_file`, else $XDG_DATA_HOME/orion-streams/keys.json."""
    if config.gateway.keys_file:
        return Path(config.gateway.keys_file).expanduser()
    return user_folder("XDG_DATA_HOME", "~/.local/share") / "keys.json"


def fresh_table() -> KeyTable:
    """Return a table without keys, with a secret of its own."""
    return KeyTable(secrets.token_hex(keys.SECRET_BYTES))


def read(path: Path) -> KeyTable | None:
    """Return what the file holds; None if there is none. Raises ConfigError for one that others can read,
    that is damaged, or too large."""
    try:
        with open(path, "rb", opener=at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(keys.MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"gateway.keys_file: {path} cannot be read: {why(error)}") from error
    if mode & 0o077:
        raise ConfigError(f"gateway.keys_file: others can read {path}: chmod 600 {path}")
    if len(raw) > keys.MAX_FILE_BYTES:
        raise ConfigError(f"gateway.keys_file: {path} is larger than {keys.MAX_FILE_BYTES} bytes")
    try:
        return keys.decode(raw)
    except ValueError as error:
        what = f"{path} is damaged ({error})"
        mend = "put back a copy, or remove it and make the keys anew"
        raise ConfigError(f"gateway.keys_file: {what}: {mend}") from error


def at_once(path: str, flags: int) -> int:
    """Open a file without waiting for another end of it, as of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def change(path: Path, how: Callable[[KeyTable], KeyTable]) -> KeyTable:
    """Change the file under a lock, so that of two changes at once neither is lost. It is made, with its
    folder, where there is none. Raises ConfigError, and what `how` raises; then the file is as it was."""
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock")):
            before = read(path)
            after = how(before or fresh_table())
            if after != before:
                write(path, keys.encode(after))
            return after
    except OSError as error:
        raise ConfigError(f"gateway.keys_file: {path} cannot be written: {why(error)}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file beside the keys while the block runs."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(held, path.parent)
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def give_to_owner(opened: int, folder: Path) -> None:
    """Give a file that root makes to the folder's owner: the gateway has a user of its own."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(opened, owner.st_uid, owner.st_gid)


def write(path: Path, raw: bytes) -> None:
    """Put a whole new file, for its owner only, in the place of the old one."""
    other = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        opened = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        give_to_owner(opened, path.parent)
        with os.fdopen(opened, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        other.replace(path)
    finally:
        other.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Held(Struct, frozen=True):
    """The keys that count, and why there may be none: "" if the file is as it should be."""

    table: KeyTable
    fault: str = ""


class KeyFile:
    """The keys of a running gateway. `current` looks at the file at most once a second, and reads it when
    it changed. While it cannot be read no key counts, and the secret stays that of the last good file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._looked_s: float | None = None
        self._stamp: Stamp | None = None
        self._held = Held(fresh_table())

    def current(self, *, at_once: bool = False) -> Held:
        """Return the keys as they were at the last look; with `at_once` look again."""
        now_s = self._clock()
        if at_once or self._looked_s is None or now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._look()
        return self._held

    def _look(self) -> None:
        stamp = stamp_of(self.path)
        if stamp == self._stamp and not self._held.fault:
            return
        self._stamp, before = stamp, self._held
        try:
            table = read(self.path)
        except ConfigError as error:
            self._held = Held(KeyTable(before.table.secret), str(error))
        else:
            self._held = Held(table or KeyTable(before.table.secret))
        if self._held.fault and self._held.fault != before.fault:
            log.error("%s: until then no key is accepted", self._held.fault)
        elif before.fault and not self._held.fault:
            log.warning("%s can be read again: its keys are accepted", self.path)


def stamp_of(path: Path) -> Stamp | None:
    """Return what tells one version of a file from another; None if there is none."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
