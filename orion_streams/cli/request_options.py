"""What the options of `orion ask` and `orion chat` say, as fields of a request."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec
from redis.exceptions import NoPermissionError

from orion_streams.cli.grid_discovery import opened
from orion_streams.cli.options import Wishes
from orion_streams.cli.outcome import tell
from orion_streams.cli.read_commands import look, warn
from orion_streams.client.calls import Fields
from orion_streams.config import Config
from orion_streams.errors import ConfigError, OrionError
from orion_streams.model.policy import GUEST_PREFIX
from orion_streams.runtime import acl
from orion_streams.runtime.connection import in_short

MAX_FILE_BYTES = 6_000_000
"""Of an image, which base64 makes a third longer, and of a schema."""


def fields_of(wishes: Wishes) -> Fields:
    """Return wishes as fields of a request, but for `model` and `system`. Raises ConfigError."""
    fields: Fields = {
        "tier": wishes.tier,
        "priority": wishes.priority,
        "timeout_s": wishes.timeout_s,
    }
    if wishes.options:
        fields["options"] = dict(option_of(each) for each in wishes.options)
    if wishes.form is not None:
        fields["format"] = "json" if wishes.form == "json" else schema_of(Path(wishes.form))
    if wishes.session is not None:
        fields["session"] = wishes.session
    if wishes.think is not None:
        fields["think"] = wishes.think
    return fields


def option_of(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE: a number, true or false, a JSON list, else a text. Raises
    ConfigError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--option: expected NAME=VALUE, e.g. temperature=0.2, got {text[:80]!a}")
    try:
        return name, msgspec.json.decode(value, type=bool | int | float | list[str])
    except msgspec.MsgspecError:
        return name, value


def schema_of(path: Path) -> dict[str, Any]:
    """Return the JSON schema in a file. Raises ConfigError."""
    try:
        return msgspec.json.decode(read(path, "--format"), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--format: {path}: expected a JSON schema, an object: {error}") from error


def image_of(path: Path) -> str:
    """Return an image in base64. Raises ConfigError."""
    return base64.b64encode(read(path, "--image")).decode()


def read(path: Path, option: str) -> bytes:
    """Return what stands in a file. Raises ConfigError, for one that is too large too."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{option}: {path}: larger than {MAX_FILE_BYTES:,} bytes")
    return raw


def from_stdin(read_text: Callable[[], str]) -> str:
    """Return what a function reads from stdin. Raises ConfigError if it is no text."""
    if isinstance(sys.stdin, TextIOWrapper) and sys.stdin.errors != "strict":
        sys.stdin.reconfigure(errors="strict")  # a plain locale lets any bytes pass
    try:
        return read_text()
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin: expected UTF-8: {error.reason}") from error


def asking_client(config: Config, wanted: str | None) -> str:
    """Return the wanted client, else that of the user in the server's URL. Raise ConfigError for one that
    streams.toml does not have. What only the grid knows, it says."""
    client = wanted or acl.client_of(config)
    if client not in config.clients and not client.startswith(GUEST_PREFIX):
        raise ConfigError(f"clients: expected [clients.{client}], which to ask as (--client)")
    return client


async def model_to_ask(config: Config, wanted: str | None) -> str:
    """Return the wanted model, else the first one installed. A client's own ACL user may not read the log:
    then it must be given, or ConfigError is raised. Raises OrionError if no node has a model."""
    try:
        async with opened(config) as store:
            now = await look(store)
    except NoPermissionError as error:
        if wanted is None:
            what, _, mend = in_short(error).partition(": ")
            raise ConfigError(f"{what}, which says the models: name one (--model), or {mend}") from None
        return wanted
    warn(now)
    if wanted is None:
        nodes = [node for node in now.grid.nodes.values() if node.rules.inference]
        wanted = min((model for node in nodes for model in node.installed), default=None)
        if wanted is None:
            raise OrionError("no node has a model installed, as far as the grid knows")
        tell(f"orion: asking {wanted}")
    return wanted
