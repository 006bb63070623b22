"""What an invitation is. Pure: values in, texts out.

The code is what a person pastes: where the house's server is, and a one-time user of it that may do one
thing, take what waits under one key. What waits there is the invitation: all that the new machine needs.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from binascii import Error as Base64Error

import msgspec
from msgspec import Struct

from orion_streams.cli.install.starter import NodeWish, node_table
from orion_streams.errors import ConfigError
from orion_streams.model.policy import Name
from orion_streams.model.toml_values import ollama_url, redis_url

HEAD, SUM_BYTES, MAX_CODE = "orion1.", 4, 32_000
ODD = "that is no code, or only a part of one: copy the whole line that `orion invite` has printed"
OTHER = "that code is of another release: install the one that `orion invite` ran on here, too"
FORGED = "that code is whole, but `orion invite` makes no such: have another one made"
LATEST_MS = 2**60
_REVISION = re.compile(r"^(revision\s*=\s*)(\d+)", re.MULTILINE)
_PLACE = re.compile(r"rediss?(\+sentinel)?://[^\s?#@/\\]+(/[\w.-]*)*")
"""Without user, password and options, which no invitation has in its URL."""
_ZONE = re.compile(r" \(thermal_zone\d+\)")


class Ticket(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the code holds. `ident`: of the invitation; `password`: of the one-time user; `until_ms`: when
    it expires, by the server's clock; `ollama`: the node's, "" without inference; `ca`: who signed the
    server's certificate, as PEM."""

    node: Name
    url: str
    key: str
    user: str
    password: str
    until_ms: int
    ollama: str = ""
    ca: str = ""


class Invitation(Struct, frozen=True):
    """What waits for the new machine, once. `password`: of its agent; `toml`: the house's streams.toml."""

    node: Name
    password: str
    toml: str


def encode(ticket: Ticket) -> str:
    """Return the code, in letters that no shell changes."""
    raw = msgspec.msgpack.encode(ticket)
    whole = raw + hashlib.sha256(raw).digest()[:SUM_BYTES]
    return HEAD + base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


def decode(code: str) -> Ticket:
    """Return what a code holds. Raises ConfigError for one that is cut, mistyped, of another release, or
    made by somebody else: what it holds is shown, connected to and asked before anything is known of it."""
    text = "".join(code.split())
    if not text.startswith(HEAD) or len(text) > MAX_CODE:
        raise ConfigError(OTHER if re.match(r"orion\d+\.", text) and len(text) <= MAX_CODE else ODD)
    text = text.removeprefix(HEAD)
    try:
        whole = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (Base64Error, ValueError):
        raise ConfigError(ODD) from None
    raw, check = whole[:-SUM_BYTES], whole[-SUM_BYTES:]
    if hashlib.sha256(raw).digest()[:SUM_BYTES] != check:
        raise ConfigError(ODD)
    try:
        ticket = msgspec.msgpack.decode(raw, type=Ticket)
    except msgspec.MsgspecError:
        raise ConfigError(OTHER) from None
    if not is_sound(ticket):
        raise ConfigError(FORGED)
    return ticket


def is_sound(ticket: Ticket) -> bool:
    """Whether the server and the Ollama are places in plain letters, that server is on a network and is
    told nothing more by its URL, and the end is a time."""
    url = ticket.url
    return (
        bool(_PLACE.fullmatch(url) and url.isascii() and url.isprintable())
        and not redis_url(url)
        and not ollama_url(ticket.ollama)
        and ticket.user.isprintable()
        and 0 <= ticket.until_ms <= LATEST_MS
    )


def accepted(raw: bytes, ticket: Ticket) -> Invitation:
    """Return the invitation that was taken. Raises ConfigError for what is none, or is another node's."""
    try:
        found = msgspec.json.decode(raw, type=Invitation)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"what waits at {ticket.url} is no invitation: {error}") from error
    if found.node != ticket.node:
        raise ConfigError(f"what waits at {ticket.url} is for {found.node}, the code for {ticket.node}")
    return found


def with_node(text: str, node: NodeWish) -> str:
    """Return a streams.toml with this node at its end and a revision of its own, so that the router takes
    it."""
    found = _REVISION.search(text.partition("\n[")[0])
    if found is None:
        raised = f"revision = 2\n{text}"
    else:
        raised = f"{text[: found.start()]}{found[1]}{int(found[2]) + 1}{text[found.end() :]}"
    return f"{raised.rstrip()}\n\n{node_table(node, alone=False)}"


def clock(ms: int) -> str:
    """Return the time of day."""
    return time.strftime("%H:%M", time.localtime(ms / 1000))


def ready_line(node: str, state: str, models: int | None, temp_mc: int | None, sensor: str) -> str:
    """Say what a node that has joined is. `models`: None without inference."""
    held = "" if models is None else f", {models} model{'' if models == 1 else 's'}"
    named = _ZONE.sub("", sensor) or "unknown"
    return f"{node}: {state}{held}, " + (
        f"sensor {named}" if temp_mc is not None else f"no sensor ({named})"
    )
