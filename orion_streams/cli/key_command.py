"""`orion key`: make, list and remove the keys of the gateway. No server is asked: the gateway notices the
changed file, and tells the grid."""

from __future__ import annotations

import secrets
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from rich.table import Table

from orion_streams import config as configuration
from orion_streams.agents import key_file
from orion_streams.cli import grid_discovery
from orion_streams.cli.as_root import become_root, is_forbidden
from orion_streams.cli.outcome import tell, write, write_json, write_result
from orion_streams.cli.tables import make_console, table
from orion_streams.config import Config
from orion_streams.environment import command
from orion_streams.errors import ConfigError
from orion_streams.gateway import keys
from orion_streams.gateway.keys import Form, Key
from orion_streams.model.gateway_rules import Place
from orion_streams.model.policy import Name

NAME = f"NAME: expected small letters, digits, - and _; at most {keys.MAX_NAME}"
SIMULATED = "orion: keys of the simulated grid that runs here: they end with it"
NO_GRID = "orion: no grid runs here now: the key, in {path}, is for the one that `{command} up` starts"
ONLY_HERE = (
    "orion: the gateway listens on this machine only, where no key is needed: no other machine and no "
    "container reaches it. First "
)
LISTEN = 'set gateway.listen, e.g. to "0.0.0.0:{port}", in {file}, and start the gateway again'
START = "start a grid of your own: a simulated one cannot listen elsewhere"
CONTAINER = "host.docker.internal"
"""What a container calls the machine that it runs on."""


class KeyRow(Struct, frozen=True):
    """A key as it is listed."""

    name: str
    client: str
    created: str
    priority: int
    max_priority: int
    view_only: bool
    form: str
    sees_all: bool


class KeyList(Struct, frozen=True):
    """All keys, and their file."""

    file: str
    keys: list[KeyRow]


class NewKey(Struct, frozen=True):
    """A key that was made: the only time that it is said."""

    name: str
    client: str
    url: str
    key: str


class RemovedKey(Struct, frozen=True):
    """A key that is no more."""

    name: str
    client: str


class Meant(Struct, frozen=True):
    """The grid whose keys are meant: its streams.toml, whether it is a simulated one, and whether there may
    be one at all: it runs here, or has a server somewhere."""

    config: Config
    file: Path
    is_simulated: bool = False
    is_there: bool = True


def run(
    *, action: Literal["add", "list", "rm"], as_json: bool, config_path: str | None, **options: Any
) -> int:
    """Do one of the actions, and print what came of it. Raises ConfigError."""
    meant = found(config_path)
    path = key_file.path_of(meant.config)
    if is_forbidden(path):
        become_root(sys.argv[1:], f"{path} belongs to the gateway")
    if meant.is_simulated:
        tell(SIMULATED)
    match action:
        case "add":
            add(meant, path, as_json, **options)
        case "list":
            show(path, as_json)
        case "rm":
            remove(path, as_json, **options)
    return 0


def found(config_path: str | None) -> Meant:
    """Return the grid of the gateway: the one that runs here, if none names another. No password is read:
    keys need no server. Raises ConfigError."""
    file = configuration.chosen_file(config_path)
    config, running = configuration.read(file), grid_discovery.running_here()
    if config_path or config.redis.url:
        runs = running is not None and Path(running.config).resolve() == file.resolve()
        is_simulated = runs and running is not None and running.simulated
        return Meant(config, file, is_simulated, is_there=runs or bool(config.redis.url))
    if running is None and grid_discovery.is_installed(config_path):
        return Meant(configuration.read(configuration.INSTALLED_TOML), configuration.INSTALLED_TOML)
    if running is None or not running.config:
        return Meant(config, file, is_there=running is not None)
    file = Path(running.config)
    return Meant(configuration.read(file), file, running.simulated)


def add(
    meant: Meant,
    path: Path,
    as_json: bool,
    *,
    name: str,
    priority: int | None,
    view_only: bool,
    sees_all: bool,
    form: Form,
) -> None:
    """Make a key and print it, with what to enter where."""
    token = keys.token_of(secrets.token_bytes(keys.TOKEN_BYTES))
    key = Key(
        name=checked_name(name),
        client=keys.client_of_key(name),
        hash=keys.digest_of(token),
        created=datetime.now(UTC).date().isoformat(),
        priority=priority or 0,
        max_priority=9 if priority is None else priority,
        view_only=view_only,
        form=form,
        sees_all=sees_all,
    )
    key_file.change(path, lambda table: keys.with_key(table, key))
    place, url = meant.config.gateway.place, url_of(meant.config.gateway.place)
    if not meant.is_there:
        tell(NO_GRID.format(path=path, command=command()))
    if place.is_loopback:
        tell(ONLY_HERE + how_to_listen(meant, place))
    if as_json:
        write_json(NewKey(key.name, key.client, url, token))
    else:
        write(f"URL  {url}\nKey  {token}")
        for line in instructions(key, place, url, token):
            write(line)
        tell(f"orion: {name} is known by this key alone, which is not shown again")


def how_to_listen(meant: Meant, place: Place) -> str:
    """Return what makes a gateway listen elsewhere than on loopback."""
    if meant.is_simulated:
        return START
    file = "a streams.toml of your own" if meant.file == configuration.PACKAGED_TOML else meant.file
    return LISTEN.format(port=place.port, file=file)


def checked_name(name: str) -> str:
    """Return the name of a key. Raises ConfigError for one that cannot be."""
    try:
        if len(name) <= keys.MAX_NAME:
            return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        pass
    raise ConfigError(f"{name[:80]!a}: {NAME}")


def url_of(place: Place, own: str = "") -> str:
    """Return where a program finds the gateway: by the name of this machine if it listens on all its
    addresses."""
    host = (own or socket.gethostname()) if place.is_any else place.host
    return f"http://[{host}]:{place.port}" if ":" in host else f"http://{host}:{place.port}"


def instructions(key: Key, place: Place, url: str, token: str) -> list[str]:
    """Return what to enter in a program, or in a browser, line by line."""
    match key.form:
        case "open-webui":
            inside = f"http://{CONTAINER}:{place.port}" if place.is_any or place.is_loopback else url
            return ["", *open_webui(inside, token)]
        case "home-assistant":
            return ["", *home_assistant(url, token)]
        case "none" if key.view_only:
            return ["", f"Open {url}/ in a browser, and enter the key there."]
        case "none":
            return ["", f'curl {url}/v1/models -H "Authorization: Bearer {token}"']


def open_webui(url: str, token: str) -> list[str]:
    """Return the line that starts Open WebUI on this grid. A key for its Ollama connection can be set on
    its page alone, so OpenAI's API is what its environment names."""
    return [
        "docker run -d --name open-webui -p 3000:8080 -v open-webui:/app/backend/data \\",
        f"  --add-host={CONTAINER}:host-gateway \\",
        f"  -e OPENAI_API_BASE_URL={url}/v1 -e OPENAI_API_KEY={token} \\",
        "  -e ENABLE_OLLAMA_API=false -e ENABLE_FORWARD_USER_INFO_HEADERS=true \\",
        "  ghcr.io/open-webui/open-webui:main",
        "",
        "One that has run before keeps its connections: change them in Admin Panel, Settings, Connections.",
        f"An Ollama connection, {url} with the key above, may stand there instead. With the variable",
        "ENABLE_FORWARD_USER_INFO_HEADERS a conversation returns to where it is cached.",
    ]


def home_assistant(url: str, token: str) -> list[str]:
    """Return what Home Assistant asks for. Older versions have no field for a key."""
    return [
        "Settings, Devices & services, Add integration, Ollama:",
        f"  URL      {url}",
        f"  API key  {token}",
        "An older Home Assistant has no field for the key. Then let its address stand for a client:",
        '  [gateway.addresses] "192.168.1.20" = "NAME", with [clients.NAME], in streams.toml',
        "For sensors (rest):",
        f"  resource: {url}/orion/v1/state",
        f'  headers: {{ Authorization: "Bearer {token}" }}',
    ]


def show(path: Path, as_json: bool) -> None:
    """List the keys."""
    held = key_file.read(path)
    listed = KeyList(str(path), [row_of(key) for key in held.keys] if held is not None else [])
    if as_json:
        write_json(listed)
    elif listed.keys:
        make_console().print(table_of(listed.keys))
    else:
        write(f"no keys in {path}: {command()} key add NAME makes one")


def row_of(key: Key) -> KeyRow:
    """Return a key without its hash."""
    values = {name: getattr(key, name) for name in KeyRow.__struct_fields__}
    return KeyRow(**values)


def table_of(rows: list[KeyRow]) -> Table:
    """Make the table of keys."""
    made = table("NAME", "CLIENT", "CREATED", "PRIORITY", "MAY", "FOR", right=("PRIORITY",))
    for row in rows:
        priority = (
            f"{row.priority}"
            if row.priority == row.max_priority
            else f"{row.priority} to {row.max_priority}"
        )
        may = ("look" if row.view_only else "ask") + (", see all" if row.sees_all else "")
        made.add_row(
            row.name, row.client, row.created, priority, may, "" if row.form == "none" else row.form
        )
    return made


def remove(path: Path, as_json: bool, *, name: str) -> None:
    """Remove a key."""
    if key_file.read(path) is None:
        raise ConfigError(f"{name[:80]!a}: no such key: there is no file {path}")
    key_file.change(path, lambda table: keys.without_key(table, name))
    gone = RemovedKey(name, keys.client_of_key(name))
    write_result(gone, f"{name} is removed", as_json)
