"""The text of a starter streams.toml. Pure: facts in, text out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from orion_streams import config as configuration
from orion_streams.cli.install.machine import Machine
from orion_streams.config import INSTALLED_TOML
from orion_streams.errors import ConfigError
from orion_streams.model.policy import ROBOT

BIG_MB, LEAST_MB = 12_000, 1_500
"""From BIG_MB on a machine is for the first tier; below LEAST_MB no model fits beside the system."""


CLIENTS = ("brain",)
OPERATORS = ("owner",)
"""Who drains: a person speaks as this client, also without users of the server, where it is about more than
asking."""
OWN = ("gateway", "cli", *OPERATORS)
"""The grid's own clients, there whoever else may ask."""


class NodeWish(Struct, frozen=True):
    """A node as it will stand in the file. `router`: `orion up` runs the router there."""

    name: str
    ram_mb: int
    inference: bool
    ollama: str
    router: bool = False
    temperature_sensor: bool = True
    slots: int = 1
    max_models: int = 3


class Wishes(Struct, frozen=True):
    """What the file says beside the defaults."""

    nodes: tuple[NodeWish, ...]
    clients: tuple[str, ...] = CLIENTS
    redis_url: str = ""
    listen: str = "127.0.0.1:11435"


def wish_of(machine: Machine, name: str, inference: bool | None) -> NodeWish:
    """Return this machine as a node. Unless told, it runs inference if it has Ollama and memory for a
    model, and is not the robot."""
    able = not machine.ollama.fault and machine.ram_mb >= LEAST_MB and name != ROBOT
    runs = able if inference is None else inference
    return NodeWish(
        name,
        machine.ram_mb,
        runs,
        machine.ollama.url if runs else "",
        temperature_sensor=machine.temp_mc is not None,
        slots=machine.ollama.slots or 1,
        max_models=machine.ollama.max_models or 3,
    )


START_OLLAMA = "Install Ollama (ollama.com/download) or start it (sudo systemctl start ollama)"


def why_not(machine: Machine, name: str) -> str:
    """Say why a machine does not run inference unless told to, and how it would."""
    if machine.ollama.fault:
        return f"no Ollama at {machine.ollama.url}: {machine.ollama.fault}. {START_OLLAMA}"
    if name == ROBOT:
        return f"{ROBOT} is the robot's name, which reports health only"
    if machine.ram_mb < LEAST_MB:
        return f"{machine.ram_mb} MB of memory are too few for a model"
    return "--no-inference was said"


def starter(wishes: Wishes) -> str:
    """Return the text of the file."""
    alone = sum(node.inference for node in wishes.nodes) == 1
    clients = "\n".join(client_table(name) for name in dict.fromkeys((*wishes.clients, *OWN)))
    nodes = "\n".join(node_table(node, alone=alone) for node in wishes.nodes)
    url = (
        "# whom all machines meet"
        if wishes.redis_url
        else "# empty: a server of `orion up`, for this machine alone"
    )
    return (
        "# orion-streams, a starter: what is not here has its default (docs/CONFIGURATION.md).\n"
        "# A change of [policy] or of a node's rules takes effect when `revision` is raised.\n"
        "revision = 1\n"
        f"\n[redis]\nurl = {json.dumps(wishes.redis_url)}  {url}\n"
        f"\n# who may ask; `gateway` is the grid's own, `cli` and `owner` are people\n{clients}"
        "\n[gateway]  # what speaks Ollama's or OpenAI's API asks here\n"
        f"listen = {json.dumps(wishes.listen)}\n"
        f"\n{nodes}"
    )


def client_table(name: str) -> str:
    """Return the table of one client."""
    may = "operator = true  # drains nodes, sees and cancels what others ask\n" if name in OPERATORS else ""
    return f"[clients.{key(name)}]\n{may}"


def with_server(text: str, url: str, password_file: str) -> str:
    """Return a streams.toml whose [redis] names this server and the file of the password for it: what stood
    there of the two is replaced, all else stays. Raises ConfigError, with the lines to write, for one that
    is written in a way that this does not know."""
    source = str(INSTALLED_TOML)
    own = {"url": url, "password_file": password_file}
    tree = configuration.tree_of(text, source)
    wanted = {**tree, "redis": {**tree.get("redis", {}), **own}}
    if tree == wanted:
        return text
    rows = [f"{name} = {json.dumps(value)}" for name, value in own.items()]
    edited = edited_by_lines(text, rows)
    with suppress(ConfigError):
        if configuration.tree_of(edited, source) == wanted:
            return edited
    raise ConfigError(
        f"{source}: its [redis] is written in a way that nothing can be added to by itself: write there, "
        f"in place of its own: {' and '.join(rows)} (nothing is written)"
    )


def edited_by_lines(text: str, rows: Sequence[str]) -> str:
    """Return a TOML with these lines in its [redis], in place of those of the same keys; good for the usual
    way of writing only."""
    names = [row.partition(" ")[0] for row in rows]
    kept: list[str] = []
    table = ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.partition("]")[0] + "]"
        is_old = table == "[redis]" and line.partition("=")[0].strip() in names
        kept += [] if is_old else [line]
        if line.startswith("[redis]"):
            kept += rows
    head = [] if "[redis]" in [line.partition("]")[0] + "]" for line in kept] else ["", "[redis]", *rows]
    return "".join(f"{line}\n" for line in (*kept, *head))


def node_table(node: NodeWish, *, alone: bool) -> str:
    """Return the table of one node. `alone`: no other node runs inference, so it is for both tiers."""
    head = f"[nodes.{key(node.name)}]\nram_mb = {node.ram_mb}\n"
    if not node.temperature_sensor:
        head += "temperature_sensor = false  # none was found: nobody sees it get hot\n"
    if not node.inference:
        return f'{head}inference = false         # reports health, never gets a request\nollama = ""\n'
    tiers = [1, 2] if alone else [1] if node.ram_mb >= BIG_MB else [2]
    return (
        head
        + ("router = true             # `orion up` runs the router here\n" if node.router else "")
        + f"tiers = {tiers}\n"
        + f"slots = {node.slots}                 # runs at a time: its OLLAMA_NUM_PARALLEL\n"
        + f"max_models = {node.max_models}            # in memory at a time: its OLLAMA_MAX_LOADED_MODELS\n"
        + f"ollama = {json.dumps(node.ollama)}\n"
    )


def key(name: str) -> str:
    """Return a name as a key of TOML; whether it is a good one is judged later."""
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)


def told(machine: Machine) -> list[str]:
    """Say what was found, a line each."""
    ollama = machine.ollama
    count, version = len(ollama.models), ollama.version or "of an unknown version"
    names = f": {', '.join(ollama.models[:6])}{' …' if count > 6 else ''}" if count else ""
    temperature = (
        f"{machine.temp_mc // 1000} °C, {machine.sensor}" if machine.temp_mc is not None else machine.sensor
    )
    return [
        f"machine   {machine.name}, {machine.ram_mb} MB of memory",
        f"sensor    {temperature}",
        f"Ollama    {version} at {ollama.url}, {count} model{'' if count == 1 else 's'}{names}"
        if not ollama.fault
        else f"Ollama    none at {ollama.url}: {ollama.fault}",
    ]
