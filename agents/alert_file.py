"""The file of the sender of alerts: how far it read the log, what is open, and what is still to be told.

It is written whole or not at all, for its owner only, and one process at a time holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from orion_streams.agents import key_file
from orion_streams.config import Config
from orion_streams.environment import user_folder
from orion_streams.errors import ConfigError, OrionError
from orion_streams.projections.alerts import AlertBook, AlertChange, AlertState
from orion_streams.protocol.alert_messages import Message

MAX_FILE_BYTES = 8_000_000
KEY = "alerts_file"


class Outbox(Struct):
    """What is to be told to one target. `waiting`: for the next message; `left_out`: lines that no message
    has any more; `sending`: the message that was begun; `sent_ms`: when the last ones were sent."""

    waiting: list[AlertChange] = []
    left_out: int = 0
    sending: Message | None = None
    sent_ms: list[int] = []


class SenderState(Struct):
    """All that a sender has to know again after a restart. `position`: of the log, None before the first
    read; `folded` and `live`: what the log says, and what only the sender sees; `number`: of the last
    message."""

    prefix: str
    position: int | None = None
    folded: AlertState = msgspec.field(default_factory=AlertState)
    live: AlertBook = msgspec.field(default_factory=AlertBook)
    outboxes: dict[str, Outbox] = {}
    number: int = 0


def path_of(config: Config) -> Path:
    """Return where the file is: `alerts_file`, else $XDG_DATA_HOME/orion-streams/alerts.json."""
    if config.alerts_file:
        return Path(config.alerts_file).expanduser()
    return user_folder("XDG_DATA_HOME", "~/.local/share") / "alerts.json"


def read(path: Path, prefix: str) -> SenderState | None:
    """Return what the file holds; None if there is none. Raises ConfigError for one that others can read,
    that is damaged, or another grid's."""
    try:
        with open(path, "rb", opener=key_file.at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{KEY}: {path} cannot be read: {error.strerror or error}") from error
    if mode & 0o077:
        raise ConfigError(f"{KEY}: others can read {path}: chmod 600 {path}")
    try:
        state = msgspec.json.decode(raw, type=SenderState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{KEY}: {path} is damaged: remove it, and what is open is told anew") from error
    if state.prefix != prefix:
        raise ConfigError(
            f"{KEY}: {path} is that of the grid {state.prefix}, not of {prefix}: name another"
        )
    return state


def write(path: Path, state: SenderState) -> None:
    """Write the file. Raises OrionError if that fails: what is not noted may not be sent."""
    try:
        key_file.write(path, msgspec.json.encode(state))
    except OSError as error:
        raise OrionError(f"{KEY}: {path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the file during the block, and remove what a killed process left of it. Raises ConfigError if
    another process holds it, or it cannot be made."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(locked(path))
            for each in path.parent.glob(f"{path.name}.*.new"):
                each.unlink(missing_ok=True)
        except BlockingIOError:
            raise ConfigError(f"{KEY}: another process sends alerts by {path}") from None
        except OSError as error:
            raise ConfigError(f"{KEY}: {path} cannot be used: {error.strerror or error}") from error
        yield


def is_held(path: Path) -> bool:
    """Whether a process sends by this file just now."""
    try:
        with locked(path, create=False):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def locked(path: Path, create: bool = True) -> Iterator[None]:
    """Lock the file beside it during the block. Raises BlockingIOError if another process does."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    opened = os.open(path.with_name(f"{path.name}.lock"), flags, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)
