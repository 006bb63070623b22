"""Who may ask the gateway, and as which client of the grid. Pure.

Who asks is told by the connection and by what it presents, never by what it says of itself: a header
X-Forwarded-For gives nobody a right. It takes one away: what came through a proxy of this machine is not of
this machine, however near the proxy is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

from msgspec import Struct

from orion_streams.gateway.keys import TOKEN_PREFIX, Key
from orion_streams.model.gateway_rules import GatewayRules, is_loopback, parsed
from orion_streams.model.policy import GATEWAY

LOCAL_ENDINGS = (".localhost", ".local", ".internal")
REALM = 'Bearer realm="orion"'
SHOWN, KNOWN_HOSTS = 80, 256
"""So many characters of a header stand in a refusal; so many hosts are not parsed again."""


class Knock(Struct, frozen=True, kw_only=True):
    """A request before it is let in. `peer`: the address at the other end of the connection; `token`: what
    `presented` found, `key`: whose it is, or whose cookie came (`by_cookie`). `forwarded`: it says that it
    came through a proxy; `accept`: what it wants to be answered with."""

    peer: str
    method: str
    path: str
    host: str = ""
    origin: str = ""
    token: str = ""
    key: Key | None = None
    forwarded: bool = False
    by_cookie: bool = False
    accept: str = ""


class Door(Struct, frozen=True, kw_only=True):
    """What the gateway lets in. `bound`: the host that it listens on; `machine`: what this machine is
    called; `insecure`: everybody may ask without a key."""

    rules: GatewayRules
    bound: str
    machine: str = ""
    insecure: bool = False


class Caller(Struct, frozen=True):
    """Who was let in: a client of the grid, by which key (""; by none), with which priorities. `sees_all`:
    it is told the ids of all clients' requests."""

    client: str
    name: str = ""
    max_priority: int = 9
    default_priority: int = 0
    view_only: bool = False
    sees_all: bool = False


class Denial(Struct, frozen=True):
    """Why not, as a status, a sentence for a person, and headers."""

    status: int
    message: str
    headers: dict[str, str] = {}


def presented(headers: Mapping[str, str]) -> str:
    """Return the token that a request presents, as OpenAI's clients do or as Anthropic's, or without the
    word Bearer; "" for none. Of two the one that looks like ours. The mapping finds names in any case."""
    first, _, bearer = headers.get("Authorization", "").strip().partition(" ")
    bare = first if first.startswith(TOKEN_PREFIX) else ""
    found = [bearer.strip() if first.lower() == "bearer" else bare, headers.get("x-api-key", "").strip()]
    return next((each for each in found if each.startswith(TOKEN_PREFIX)), found[0] or found[1])


def is_forwarded(headers: Mapping[str, str]) -> bool:
    """Whether a request says that it came through a proxy."""
    return any(name in headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP"))


def admit(knock: Knock, door: Door) -> Caller | Denial:
    """Let a request in, or refuse it: its page, its key, what it may do."""
    if refusal := page_refusal(knock, door) or session_refusal(knock, door):
        return refusal
    if is_page(knock):
        return NOBODY
    if knock.key is None:
        return keyless(knock, door)
    key = knock.key
    if key.view_only and not only_looks(knock):
        return Denial(403, f"The key {key.name} is for looking only: make another with `orion key add`.")
    return Caller(key.client, key.name, key.max_priority, key.priority, key.view_only, key.sees_all)


NOBODY = Caller("", view_only=True)
"""Who loads the page: it holds nothing that needs a key."""
SESSION, PAGE_FILES = "/orion/v1/session", "/orion/page/"


def is_page(knock: Knock) -> bool:
    """Whether a request is for the page itself, or gives or returns its key: then none is needed."""
    if knock.path == SESSION:
        return knock.method in ("POST", "DELETE")
    is_file = knock.path.startswith(PAGE_FILES) or (knock.path == "/" and wants_page(knock.accept))
    return is_file and knock.method in ("GET", "HEAD")


def wants_page(accept: str) -> bool:
    """Whether an Accept header is a browser's: programs ask for no HTML."""
    return any(each.partition(";")[0].strip().lower() == "text/html" for each in accept.split(","))


def session_refusal(knock: Knock, door: Door) -> Denial | None:
    """Refuse what a page of another origin writes with the page's cookie, or does to it: browsers send
    cookies to all ports of a host, whoever's page asks."""
    if knock.method in ("GET", "HEAD"):
        return None
    foreign = is_foreign(knock, door)
    if (knock.by_cookie and (foreign or not knock.origin)) or (knock.path == SESSION and foreign):
        what = shown(knock.origin) if knock.origin else "no origin that is told"
        return Denial(403, f"The page's cookie is not for pages of {what}.")
    return None


def keyless(knock: Knock, door: Door) -> Caller | Denial:
    """Let in who needs no key: this machine, addresses that stand for a client. A token that only looks
    like one of ours is refused everywhere, so that a key that was removed is not silently somebody else;
    another is none, as clients demand some text for services that ask for none."""
    if knock.token.startswith(TOKEN_PREFIX):
        what = "This key is not known: it was removed, or mistyped. `orion key list` shows those there are."
        return Denial(401, what, {"WWW-Authenticate": f'{REALM}, error="invalid_token"'})
    is_here = is_loopback(knock.peer) and not knock.forwarded and is_local(knock.host, door.machine)
    if client := client_at(knock.peer, door.rules.addresses):
        return Caller(client, sees_all=is_here)
    if door.insecure or is_here:
        return Caller(GATEWAY, sees_all=is_here)
    what = (
        "From here a key is needed: `orion key add NAME` on the gateway's machine prints one. "
        "It is sent as `Authorization: Bearer KEY`."
    )
    return Denial(401, what, {"WWW-Authenticate": REALM})


def only_looks(knock: Knock) -> bool:
    """Whether a request changes nothing and costs nothing: a listing, the state."""
    return knock.method in ("GET", "HEAD") or (knock.method, knock.path) == ("POST", "/api/show")


def client_at(peer: str, addresses: Mapping[str, str]) -> str:
    """Return the client that an address stands for, by the narrowest network that has it; "" for none."""
    address = parsed(peer)
    networks = [(ip_network(text), client) for text, client in addresses.items()]
    found = [
        (network.prefixlen, client)
        for network, client in networks
        if address is not None and network.version == address.version
        if address.network_address in network
    ]
    return max(found)[1] if found else ""


def page_refusal(knock: Knock, door: Door) -> Denial | None:
    """Refuse a foreign Host while only this machine can connect, as then it is a page that has itself
    resolved to this machine (DNS rebinding), and pages of foreign origins."""
    if is_bound_to_loopback(door.bound) and not is_local(knock.host, door.machine):
        return Denial(403, f"Host {shown(knock.host)} is not this machine.")
    if is_foreign(knock, door) and not is_allowed(knock.origin, door.rules):
        what = f"Pages of {shown(knock.origin)} may not ask: add it to gateway.origins in streams.toml."
        return Denial(403, what)
    return None


def is_bound_to_loopback(host: str) -> bool:
    """Whether a server on this host is reached from this machine only."""
    return host == "localhost" or is_loopback(host)


def is_local(host_header: str, machine: str) -> bool:
    """Whether a Host header names this machine, or an address: no page can give itself an address as its
    name. `machine`: what this machine is called."""
    host = host_header.lower()
    name, _, port = host.rpartition(":")
    if name and port.isdigit() and (":" not in name or name.startswith("[")):
        host = name
    named = host in ("", "localhost", machine.lower()) or host.endswith(LOCAL_ENDINGS)
    return named or is_address(host.strip("[]"))


@lru_cache(KNOWN_HOSTS)
def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_foreign(knock: Knock, door: Door) -> bool:
    """Whether a request comes from a page, and not from one of this server's own under a name of this
    machine: a page that has itself resolved to it looks like its own under another, but has neither our
    cookie nor a key to give."""
    if not knock.origin:
        return False
    own = [f"{scheme}://{knock.host.lower()}" for scheme in ("http", "https")]
    is_sure = knock.by_cookie or knock.path == SESSION or is_local(knock.host, door.machine)
    return not (knock.origin.lower() in own and is_sure)


OWN_ORIGINS = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:[0-9]{1,5})?"
    r"|(app|file|tauri|vscode-webview|vscode-file)://.*",
    re.IGNORECASE,
)
"""Pages of this machine and of programs on it, as Ollama lets them ask."""


def is_allowed(origin: str, rules: GatewayRules) -> bool:
    """Whether pages of this origin may ask; `*` in a configured one stands for anything."""
    if OWN_ORIGINS.fullmatch(origin):
        return True
    patterns = (re.escape(each).replace(r"\*", r"[^/@]*") for each in rules.origins)
    return any(re.fullmatch(each, origin, re.IGNORECASE) for each in patterns)


ALLOWED_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
ALLOWED_HEADERS = (
    "Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "OpenAI-Beta",
    "x-api-key", "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access",
    *(
        f"x-stainless-{each}"
        for each in (
            "arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version",
            "poll-helper", "retry-count", "runtime", "runtime-version", "timeout",
        )
    ),
)  # fmt: skip
"""What pages may send: the headers of OpenAI's and Anthropic's clients."""


def page_headers(knock: Knock, door: Door) -> dict[str, str]:
    """Return the headers by which a browser shows the page an answer, or a refusal; none for pages that may
    not ask."""
    if not is_foreign(knock, door) or not is_allowed(knock.origin, door.rules):
        return {}
    return {"Access-Control-Allow-Origin": knock.origin, "Vary": "Origin"}


def preflight(knock: Knock, door: Door) -> dict[str, str] | Denial:
    """Return the headers of the answer to a browser's OPTIONS, which carries no key, or refuse it."""
    if refusal := page_refusal(knock, door):
        return refusal
    allowed = page_headers(knock, door)
    if not allowed:
        return {"Allow": ALLOWED_METHODS}
    return {
        **allowed,
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": ", ".join(ALLOWED_HEADERS),
        "Access-Control-Max-Age": "43200",
    }


def shown(header: str) -> str:
    """Return a header as a refusal shows it: cut, and printable."""
    return ascii(header[:SHOWN])
