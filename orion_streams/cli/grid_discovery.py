"""Which grid a command is about: --redis, ORION_REDIS_URL, [redis] url, or the one running here.

`orion up` notes where its server is in a small file that only its user can read, removed when it stops.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from orion_streams import config as configuration
from orion_streams.config import Config, with_url
from orion_streams.errors import BackendError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import data_dir, is_alive

NONE_HERE = "no grid is running here: start one with `./orion up --simulated` or name one with --redis URL"


class Running(Struct, frozen=True):
    """What `orion up` says of itself."""

    pid: int
    redis_url: str
    config: str
    simulated: bool


def find(redis_url: str | None, config_path: str | None) -> Config:
    """The configuration, with a Redis URL that is never empty. Raises ConfigError; BackendError when
    none is named and no grid runs here."""
    config = configuration.load(config_path, redis_url)
    if config.redis.url:
        return config
    running = running_here()
    if running is None:
        raise BackendError(NONE_HERE)
    if config_path is None and running.config:
        config = configuration.load(running.config)
    return with_url(config, running.redis_url)


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[RedisLog]:
    """The log of the grid, while the block runs."""
    redis = connect(config.redis.url)
    try:
        yield RedisLog(redis, config.prefix)
    finally:
        await redis.aclose()


def note_path() -> Path:
    """Where the running grid is noted: $XDG_RUNTIME_DIR, else the data folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime) / "orion-streams" if runtime else data_dir("")) / "up.json"


def running_here() -> Running | None:
    """The grid that runs on this machine, if there is one; the note of a dead one does not count."""
    try:
        running = msgspec.json.decode(note_path().read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return running if is_alive(str(running.pid)) else None


@contextmanager
def noted(running: Running) -> Iterator[None]:
    """Note the grid while the block runs. A later grid's note is left alone; an earlier one's, if that
    grid still runs, is put back."""
    before = running_here()
    path = note_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{running.pid}")
    write_privately(fresh, running)
    fresh.replace(path)
    try:
        yield
    finally:
        if running_here() == running:
            if before is not None and is_alive(str(before.pid)):
                write_privately(path, before)
            else:
                path.unlink(missing_ok=True)


def write_privately(path: Path, running: Running) -> None:
    """Its URL may hold a password: nobody else may read it, not even for a moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(running))
