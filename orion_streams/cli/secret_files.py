"""Files with secrets that a streams.toml names: whether they are there, and open to nobody else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from orion_streams import config as configuration
from orion_streams import environment
from orion_streams.config import Config
from orion_streams.errors import ConfigError, why

OTHERS, WORLD = 0o077, 0o007


class SecretFile(Struct, frozen=True):
    """A file that a key names. `closed_to`: the bits of its mode that may not be set; `what`: its one line,
    "" for a file of many."""

    key: str
    path: Path
    closed_to: int = OTHERS
    what: str = ""


def named(config: Config) -> Iterator[SecretFile]:
    """Yield the files that would be read: what the environment says goes before some."""
    redis = config.redis
    if redis.password_file and environment.redis_password() is None:
        path = environment.own_secret(Path(redis.password_file).expanduser())
        yield SecretFile("redis.password_file", path, what="the password")
    for key, closed_to in (("tls_ca_file", 0), ("tls_cert_file", 0), ("tls_key_file", WORLD)):
        if held := getattr(redis, key):
            yield SecretFile(f"redis.{key}", Path(held).expanduser(), closed_to)
    for name, target in config.alerts_to.items():
        where = f"alerts_to.{name}"
        if target.webhook_file and not environment.alert_secret("WEBHOOK", name):
            path = Path(target.webhook_file).expanduser()
            yield SecretFile(f"{where}.webhook_file", path, what="the URL")
        if target.token_file and not environment.alert_secret("TOKEN", name):
            path = Path(target.token_file).expanduser()
            yield SecretFile(f"{where}.token_file", path, what="the token")


def fault(file: SecretFile) -> str:
    """Return what is wrong with a file, without what is in it; "" if nothing is, or nobody but root may
    know."""
    try:
        seen = file.path.stat()
    except PermissionError:
        return ""
    except OSError as error:
        return f"{file.key}: {file.path}: {why(error)}"
    if stat.S_ISDIR(seen.st_mode):
        return f"{file.key}: {file.path}: expected a file, this is a folder"
    if seen.st_mode & file.closed_to:
        return f"{file.key}: others can read {file.path}: chmod 600 {file.path}"
    if file.what and stat.S_ISREG(seen.st_mode) and os.access(file.path, os.R_OK):
        try:
            configuration.read_secret(file.path, file.key, file.what)
        except ConfigError as error:
            return str(error)
    return ""


def faults(config: Config) -> list[str]:
    """List what is wrong with the files that a streams.toml names, in its order."""
    return [found for file in named(config) if (found := fault(file))]
