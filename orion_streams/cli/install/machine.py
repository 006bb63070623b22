"""What this machine is: its name, memory, temperature sensor, and Ollama with its models."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import httpx
import msgspec
import psutil
from msgspec import Struct

from orion_streams.agents import thermal
from orion_streams.agents.ollama_json import UNREADABLE
from orion_streams.agents.ollama_lists import installed_models
from orion_streams.model.policy import RUNS_MAX
from orion_streams.protocol.public_row import GATEWAY_SERVER

OLLAMA = "http://127.0.0.1:11434"
LOOK_S = 2.0
VIRTUAL = ("docker", "br-", "veth", "virbr", "tun", "wg")
"""Interfaces that do not lead into the house."""
VARIABLES = 100_000
"""Bytes that are read of a process's environment, at most."""


class OllamaFound(Struct, frozen=True):
    """What was found where Ollama should be. `fault`: why there is none. `slots` and `max_models`: as its
    process was told (OLLAMA_NUM_PARALLEL, OLLAMA_MAX_LOADED_MODELS); 0 if that is not known."""

    url: str
    version: str = ""
    models: tuple[str, ...] = ()
    slots: int = 0
    max_models: int = 0
    fault: str = ""


class Machine(Struct, frozen=True):
    """The facts about a machine. `sensor`: which it is, or why there is none."""

    name: str
    ram_mb: int
    temp_mc: int | None
    sensor: str
    ollama: OllamaFound


def look(url: str = OLLAMA) -> Machine:
    """Look at this machine, and for Ollama at `url`, for at most some seconds."""
    reading = thermal.read(thermal.processor_zones())
    return Machine(
        name=node_name(socket.gethostname()),
        ram_mb=max(psutil.virtual_memory().total // (1024 * 1024), 1),
        temp_mc=reading.temp_mc,
        sensor=reading.what,
        ollama=look_for_ollama(url),
    )


def node_name(host: str) -> str:
    """Return the name of a node for a host's name: what streams.toml takes, never empty."""
    first = host.partition(".")[0].lower()
    return re.sub(r"[^a-z0-9_-]", "-", first).strip("-_")[:63] or "node"


def look_for_ollama(url: str) -> OllamaFound:
    """Ask for models and version, which is a label only. A gateway that answers there is no Ollama."""
    try:
        with httpx.Client(base_url=url, timeout=LOOK_S, trust_env=False) as http:
            answer = http.get("/api/tags")
            if answer.headers.get("server") == GATEWAY_SERVER:
                return OllamaFound(url, fault="what answers there is the gateway of a grid")
            if answer.status_code != 200:
                return OllamaFound(url, fault="what answers there is no Ollama")
            found = installed_models(answer.content)
            version = version_of(http.get("/api/version").content)
    except httpx.HTTPError as error:
        return OllamaFound(url, fault=f"nothing answers there ({type(error).__name__})")
    except (httpx.InvalidURL, *UNREADABLE):
        return OllamaFound(url, fault="what answers there is no Ollama")
    told = told_to_ollama() if is_here(url) else {}
    return OllamaFound(
        url,
        version,
        tuple(sorted(model.name for model in found.models)),
        told.get("OLLAMA_NUM_PARALLEL", 0),
        told.get("OLLAMA_MAX_LOADED_MODELS", 0),
    )


def version_of(raw: bytes) -> str:
    """Return the version that an Ollama tells; "" if it does not."""
    try:
        said = msgspec.json.decode(raw, type=dict[str, object]).get("version")
    except UNREADABLE:
        return ""
    return said if isinstance(said, str) else ""


def is_here(url: str) -> bool:
    """Whether a URL names this machine's own loopback."""
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


def told_to_ollama() -> dict[str, int]:
    """Return the numbers in the environment of Ollama's server, which only root or its user may read."""
    found: dict[str, int] = {}
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "ollama":
            continue
        with suppress(OSError), Path(f"/proc/{process.pid}/environ").open("rb") as file:
            for each in file.read(VARIABLES).split(b"\0"):
                name, _, value = each.decode(errors="replace").partition("=")
                if name.startswith("OLLAMA_") and value.isdecimal() and 1 <= int(value) <= RUNS_MAX:
                    found[name] = int(value)
    return found


def lan_address() -> str:
    """Return this machine's address in the house: its first private one, else loopback."""
    stats = psutil.net_if_stats()
    for name, rows in sorted(psutil.net_if_addrs().items()):
        if not stats[name].isup or name.startswith(VIRTUAL):
            continue
        for row in rows:
            if row.family == socket.AF_INET and is_of_a_house(row.address):
                return str(row.address)
    return "127.0.0.1"


def is_of_a_house(address: str) -> bool:
    """Whether an address is private, and neither loopback nor one that a machine gives itself."""
    found = ip_address(address)
    return found.is_private and not found.is_loopback and not found.is_link_local


def own_addresses() -> frozenset[str]:
    """Return all addresses that this machine has now, without the name of a link."""
    rows = [row for each in psutil.net_if_addrs().values() for row in each]
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(row.address.partition("%")[0] for row in rows if row.family in families)


def is_taken(host: str, port: int) -> bool:
    """Whether another program listens there. Raises OSError where nobody could listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
    return False
