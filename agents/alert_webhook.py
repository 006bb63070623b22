"""Sends one request to a webhook: to the address that was checked and no other, without redirects, proxies
or cookies, within a time limit.

A name is resolved once. The connection goes to what that gave, so no second answer of a name server can
lead it elsewhere. What is said of a failure holds nothing of URL, headers and answer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from orion_streams.errors import TellError
from orion_streams.model.gateway_rules import DEFAULT_PORTS
from orion_streams.protocol.alert_messages import Outgoing

MAX_ANSWER_BYTES = 65_536
"""So much is read of an answer, so that whoever sends it has its end; then the connection is closed."""
MOST_ADDRESSES = 8
HOUSE = tuple(
    ip_network(each)
    for each in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
        "::1/128", "fc00::/7", "fe80::/10",
    )
)  # fmt: skip
"""Loopback, private and link-local addresses."""
PUBLIC = "its address is none of this house: allow_public = true allows it"


async def post(outgoing: Outgoing, timeout_s: float, *, allow_public: bool) -> str:
    """Send the request and return what came back: a status. Raises TellError if it did not arrive, or was
    not answered with 2xx."""
    try:
        async with asyncio.timeout(timeout_s):
            found = await checked_addresses(outgoing.url, allow_public)
            status = await send(outgoing, found)
    except TimeoutError:
        raise TellError(f"no answer within {timeout_s:g} s") from None
    except TellError:
        raise
    except Exception as error:  # whatever it is: its text, or a traceback, might hold the URL
        raise TellError(words_for(error)) from None
    if not 200 <= status < 300:
        what = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        raise TellError(f"it answered {status}{what}")
    return f"it answered {status}"


async def send(outgoing: Outgoing, found: list[ResolveResult]) -> int:
    """Send the request to one of these addresses, and return the status of the answer."""
    connector = aiohttp.TCPConnector(resolver=Pinned(found), use_dns_cache=False, limit=1, force_close=True)
    async with (
        aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),  # there is one around it all
        ) as http,
        http.post(
            URL(outgoing.url, encoded=True),
            data=outgoing.body,
            headers=outgoing.headers,
            allow_redirects=False,
        ) as answer,
    ):
        left = MAX_ANSWER_BYTES
        while left > 0 and (chunk := await answer.content.read(left)):
            left -= len(chunk)
        return answer.status


async def checked_addresses(url: str, allow_public: bool) -> list[ResolveResult]:
    """Resolve the URL's host, once. Raises TellError if any of its addresses is none of this house, unless
    that is allowed."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise TellError("its name is not known") from None
    found = [
        ResolveResult(
            hostname=host, host=address[0], port=port, family=family, proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for family, _, proto, _, address in rows
        if isinstance(address[0], str)
    ][:MOST_ADDRESSES]  # fmt: skip
    if not found:
        raise TellError("its name is not known")
    if not allow_public and not all(is_of_house(each["host"]) for each in found):
        raise TellError(PUBLIC)
    return found


def is_of_house(host: str) -> bool:
    """Whether an address is loopback, private or link-local. One of IPv4 that is written as IPv6 counts as
    what it is."""
    address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in HOUSE)


class Pinned(AbstractResolver):
    """Resolves every name to what was checked."""

    def __init__(self, found: list[ResolveResult]) -> None:
        self._found = found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return self._found

    async def close(self) -> None:
        return None


def words_for(error: Exception) -> str:
    """Return what went wrong in words of our own: those of the libraries hold host and URL."""
    cause: Any = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message.rstrip('.')}"
    if isinstance(cause, ssl.SSLError):
        return "TLS failed: it speaks none on that port"
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"it cannot be reached: {cause.strerror or type(cause).__name__}"
    if isinstance(
        error, aiohttp.ClientResponseError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError
    ):
        return "what it answered is no HTTP, or it hung up"
    return f"it failed: {type(error).__name__}"
