"""The [gateway] table: where the gateway listens, whom it lets in, and how much at a time. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from msgspec import Struct

from orion_streams.model.policy import GUEST_PREFIX, Count, ModelName, Name
from orion_streams.model.toml_values import place_fault

LOCALHOST = "localhost"
DEFAULT_PORTS = {"http": 80, "https": 443}
KNOWN_HOSTS = 256
"""So many are not parsed again: each request asks for its own."""


class GatewayRules(Struct, frozen=True):
    """How the gateway is reached. `name`: its own, under which it finds after a crash what it had asked.
    `addresses`: client by the address, or network, that stands for it without a key. `aliases`: model by
    another name for it. `max_streams`: requests open at a time, per client."""

    listen: str = "127.0.0.1:11435"
    name: Name = "gateway"
    keys_file: str = ""
    origins: tuple[str, ...] = ()
    addresses: dict[str, Name] = {}
    aliases: dict[ModelName, ModelName] = {}
    max_body_bytes: Count = 8_000_000
    max_connections: Count = 512
    max_streams: Count = 100

    @property
    def place(self) -> Place:
        """Where it listens."""
        return place_of(self.listen)


class Place(Struct, frozen=True):
    """A host, without brackets, and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can get there."""
        return self.host == LOCALHOST or is_loopback(self.host)

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of the machine."""
        return (address := parsed(self.host)) is not None and address.is_unspecified


@lru_cache(KNOWN_HOSTS)
def parsed(host: str) -> IPv4Network | IPv6Network | None:
    """Return an address, one of IPv4 that is written as IPv6 as IPv4; None for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return ip_network(mapped or address)


def is_loopback(address: str) -> bool:
    """Whether it is an address of this machine alone."""
    return (found := parsed(address)) is not None and found.is_loopback


def place_of(listen: str) -> Place:
    """Return the place of `HOST:PORT`, as `listen_fault` lets it pass."""
    parts = urlsplit(f"//{listen}")
    return Place(parts.hostname or "", parts.port or 0)


LISTEN = 'HOST:PORT, e.g. "127.0.0.1:11435", "[::1]:11435", or "0.0.0.0:11435" for the whole network'


def listen_fault(listen: str) -> str:
    """Judge where the gateway listens. Its port is never left to chance."""
    if fault := place_fault(listen):
        return f"{LISTEN}{fault}".rstrip(";")
    return "" if re.search(r":[0-9]+\Z", listen) and place_of(listen).port else LISTEN


ORIGINS = 'pages that may ask, e.g. "https://chat.home.arpa", "http://pi:*" or "chrome-extension://*"'


def origins_fault(origins: tuple[str, ...]) -> str:
    """Judge the origins of pages. One of http or https names its host."""
    for each in origins:
        is_page = re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:([0-9]{1,5}|\*))?", each)
        if not is_page and (each.startswith("http") or not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", each)):
            return ORIGINS
    return ""


def contradictions(
    rules: GatewayRules, clients: Collection[str], ollamas: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is wrong with values that are valid one by one. `ollamas`: URL by node."""
    for address, client in rules.addresses.items():
        if what := network_fault(address):
            yield f"gateway.addresses.{address}: {what}"
        if client not in clients and not client.startswith(GUEST_PREFIX):
            yield f'gateway.addresses.{address} = "{client}": no such client; add [clients.{client}]'
    for node, url in taken_by(rules.place, ollamas):
        yield (
            f'gateway.listen = "{rules.listen}": nodes.{node} has its Ollama there ({url}): '
            "expected another port, e.g. 11435"
        )


def network_fault(text: str) -> str:
    """Judge an address or a network that stands for a client."""
    try:
        network = ip_network(text)
    except ValueError:
        return 'expected an address or a network, e.g. "192.168.1.20" or "192.168.1.0/24"'
    return "" if network.prefixlen else "expected an address or a network, and not all there are"


def taken_by(
    place: Place, ollamas: Mapping[str, str], own: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield nodes whose Ollama is where the gateway would listen, with its URL: on the same port of the
    same host, of any machine's own loopback, or of `own`, what this machine is called."""
    for node, url in sorted(ollamas.items()):
        parts = urlsplit(url)
        other = Place(parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0))
        is_everywhere = other.is_loopback or other.is_any
        is_here = (place.is_loopback or place.is_any) and other.host in own
        if place.port == other.port and (is_everywhere or is_here or place.host == other.host):
            yield node, url
