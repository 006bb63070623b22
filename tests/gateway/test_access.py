"""Who may ask the gateway, and as whom: each rule, with its control."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from multidict import CIMultiDict

from orion_streams.gateway.access import (
    Caller,
    Denial,
    Door,
    Knock,
    admit,
    client_at,
    is_forwarded,
    is_local,
    page_headers,
    preflight,
    presented,
)
from orion_streams.gateway.keys import Key, digest_of
from orion_streams.model.gateway_rules import GatewayRules

TOKEN = "orion-" + "a" * 43
KEY = Key(
    name="anna", client="key-anna", hash=digest_of(TOKEN), created="2026-11-29", priority=1, max_priority=3
)
HERE = Door(rules=GatewayRules(), bound="127.0.0.1", machine="orion-master")
HOUSE = Door(
    rules=GatewayRules(
        addresses={"192.168.1.20": "kitchen", "192.168.1.0/24": "guests", "fd00::/64": "six"},
        origins=("https://chat.home.arpa", "http://pi:*", "chrome-extension://*"),
    ),
    bound="0.0.0.0",
    machine="orion-master",
)
LOOPBACKS = ("127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1")
ANNA = Caller("key-anna", "anna", 3, 1, False)


def knock(**values: Any) -> Knock:
    """A request of this machine, without a key."""
    usual: dict[str, Any] = {
        "peer": "127.0.0.1",
        "method": "POST",
        "path": "/api/chat",
        "host": "localhost:11435",
    }
    return Knock(**{**usual, **values})


def status(answer: Caller | Denial) -> int:
    """200 for who was let in."""
    return answer.status if isinstance(answer, Denial) else 200


@pytest.mark.parametrize("peer", LOOPBACKS)
@pytest.mark.parametrize("door", [HERE, HOUSE])
def test_this_machine_needs_no_key(peer: str, door: Door) -> None:
    """It asks as the gateway's own client, and sees what all ask."""
    assert admit(knock(peer=peer), door) == Caller("gateway", sees_all=True)


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "172.17.0.2", "::ffff:10.0.0.1", "fe80::1%eth0", "128.0.0.1", ""]
)
def test_another_address_needs_one(peer: str) -> None:
    """Without: 401, how to get one, and the header that says how it is sent. With one it is its client."""
    refused = admit(knock(peer=peer), HOUSE)
    assert isinstance(refused, Denial)
    assert (refused.status, refused.headers) == (401, {"WWW-Authenticate": 'Bearer realm="orion"'})
    assert "orion key add" in refused.message
    assert admit(knock(peer=peer, token=TOKEN, key=KEY), HOUSE) == ANNA
    assert admit(knock(peer=peer), replace(HOUSE, insecure=True)) == Caller("gateway")


@pytest.mark.parametrize("peer", [*LOOPBACKS, "10.0.0.1", "192.168.1.20"])
@pytest.mark.parametrize("insecure", [True, False])
def test_a_key_that_is_not_known_is_refused_everywhere(peer: str, insecure: bool) -> None:
    """One that was removed must not be somebody else. The control: what no key is, is none."""
    door = replace(HOUSE, insecure=insecure)
    refused = admit(knock(peer=peer, token=TOKEN), door)
    assert isinstance(refused, Denial)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    without = admit(knock(peer=peer, token="ollama"), door)
    assert status(without) == status(admit(knock(peer=peer), door))


def test_a_proxy_of_this_machine_is_not_this_machine() -> None:
    """What came through one needs a key, however near it is; a forged header gives nobody a right."""
    assert status(admit(knock(forwarded=True), HERE)) == 401
    assert admit(knock(forwarded=True, token=TOKEN, key=KEY), HERE) == ANNA
    assert status(admit(knock(peer="10.0.0.1", forwarded=True), HOUSE)) == 401
    assert status(admit(knock(host="house.example.org"), HOUSE)) == 401, "a proxy that keeps the name"
    for name in ("X-Forwarded-For", "x-real-ip", "Forwarded"):
        assert is_forwarded(CIMultiDict({name: "127.0.0.1"}))
    assert not is_forwarded(CIMultiDict({"Host": "127.0.0.1"}))


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.168.1.20", "kitchen"),
        ("::ffff:192.168.1.20", "kitchen"),
        ("192.168.1.21", "guests"),
        ("192.168.2.20", ""),
        ("fd00::5", "six"),
        ("fd01::5", ""),
        ("", ""),
    ],
)
def test_an_address_may_stand_for_a_client(peer: str, client: str) -> None:
    """The narrowest network that has it; off where none is configured. A key goes before it."""
    assert client_at(peer, HOUSE.rules.addresses) == client
    found = admit(knock(peer=peer), HOUSE)
    assert found == Caller(client) if client else status(found) == 401
    assert status(admit(knock(peer=peer), replace(HOUSE, rules=GatewayRules()))) == 401
    assert admit(knock(peer=peer, token=TOKEN, key=KEY), HOUSE) == ANNA


LOOKS = [
    ("GET", "/api/tags", 200),
    ("HEAD", "/", 200),
    ("POST", "/api/show", 200),
    ("GET", "/orion/v1/state", 200),
]
ASKS = [
    ("POST", "/api/chat", 403),
    ("DELETE", "/api/delete", 403),
    ("POST", "/v1/models", 403),
    ("PUT", "/", 403),
]


@pytest.mark.parametrize(("method", "path", "expected"), [*LOOKS, *ASKS])
def test_a_key_for_looking_only_looks(method: str, path: str, expected: int) -> None:
    """Listings and the state. The control: another key asks."""
    looking = replace(KEY, view_only=True)
    assert status(admit(knock(method=method, path=path, token=TOKEN, key=looking), HERE)) == expected
    assert status(admit(knock(method=method, path=path, token=TOKEN, key=KEY), HERE)) == 200


LOCAL = [
    "localhost", "localhost:11435", "LOCALHOST:1", "127.0.0.1:11435", "[::1]:11435", "::1", "192.168.1.5",
    "orion-master", "Orion-Master:11435", "pi.local", "a.localhost:1", "host.docker.internal:11435", "",
]  # fmt: skip
FOREIGN = [
    "evil.example",
    "evil.example:11435",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "x.locall",
]


@pytest.mark.parametrize("host", [*LOCAL, *FOREIGN])
def test_a_foreign_name_is_refused_while_only_this_machine_can_connect(host: str) -> None:
    """A page that has itself resolved to this machine. Bound wider any name is good, for who has a key."""
    assert is_local(host, "orion-master") is (host in LOCAL)
    bound = [
        status(admit(knock(host=host), replace(HERE, bound=each)))
        for each in ("127.0.0.1", "::1", "localhost")
    ]
    assert bound == [200 if host in LOCAL else 403] * 3
    assert status(admit(knock(host=host, token=TOKEN, key=KEY), HERE)) == bound[0]
    assert admit(knock(host=host, token=TOKEN, key=KEY), HOUSE) == ANNA


OWN_PAGES = [
    "http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "http://0.0.0.0:1", "app://obsidian.md",
    "file://", "tauri://localhost", "vscode-webview://1a2b", "vscode-file://vscode-app",
]  # fmt: skip
CONFIGURED = ["https://chat.home.arpa", "http://pi:3000", "chrome-extension://abc"]
FOREIGN_PAGES = [
    "https://evil.example", "http://localhost.evil.example", "http://localhost:3000.evil.example", "null",
    "https://chat.home.arpa.evil.example", "http://chat.home.arpa", "http://localhost:3000@evil.example",
    "http://pi:1@evil.example", "xapp://a", "http://pi:80/evil",
]  # fmt: skip


@pytest.mark.parametrize("origin", [*OWN_PAGES, *CONFIGURED, *FOREIGN_PAGES])
def test_pages_are_those_that_ollama_lets_ask_and_the_configured(origin: str) -> None:
    """Others are refused, and no browser shows them an answer; more only by configuration."""
    is_good = origin not in FOREIGN_PAGES
    assert status(admit(knock(origin=origin), HOUSE)) == (200 if is_good else 403)
    expected = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if is_good else {}
    assert page_headers(knock(origin=origin), HOUSE) == expected
    assert status(admit(knock(origin=origin), HERE)) == (200 if origin in OWN_PAGES else 403)


def test_a_page_of_this_server_is_its_own_only_under_a_name_of_this_machine() -> None:
    """One that has itself resolved to it sends the same origin as its host, and speaks for an address."""
    own = knock(host="orion-master:11435", origin="http://orion-master:11435")
    assert admit(own, HOUSE) == Caller("gateway", sees_all=True)
    assert page_headers(own, HOUSE) == {}
    evil = knock(peer="192.168.1.20", host="evil.example:11435", origin="http://evil.example:11435")
    assert status(admit(evil, HOUSE)) == 403
    assert status(admit(evil, replace(HOUSE, insecure=True))) == 403


def test_a_browser_asks_first_without_a_key() -> None:
    """Its OPTIONS gets methods and headers of the clients that run in pages; foreign pages get none."""
    asked = knock(peer="10.0.0.9", method="OPTIONS", origin="http://pi:3000", host="orion-master:11435")
    answer = preflight(asked, HOUSE)
    assert isinstance(answer, dict)
    assert answer["Access-Control-Allow-Origin"] == "http://pi:3000"
    allowed = {each.lower() for each in answer["Access-Control-Allow-Headers"].split(", ")}
    assert {
        "authorization",
        "content-type",
        "x-api-key",
        "x-stainless-lang",
        "x-stainless-timeout",
    } <= allowed
    assert {"POST", "DELETE"} <= {*answer["Access-Control-Allow-Methods"].split(", ")}
    refused = preflight(replace(asked, origin="https://evil.example"), HOUSE)
    assert isinstance(refused, Denial)
    assert (refused.status, refused.headers) == (403, {})
    assert status(admit(asked, HOUSE)) == 401, "what follows needs one"
    assert "Access-Control-Allow-Origin" not in preflight(replace(asked, origin=""), HOUSE)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({"Authorization": f"Bearer {TOKEN}"}, TOKEN),
        ({"authorization": f"bearer   {TOKEN} "}, TOKEN),
        ({"X-Api-Key": TOKEN}, TOKEN),
        ({"Authorization": f"Basic {TOKEN}"}, ""),
        ({"Authorization": TOKEN}, TOKEN),
        ({"Authorization": f" {TOKEN}  x"}, TOKEN),
        ({"Authorization": "Bearer"}, ""),
        ({"Authorization": "Bearer ollama", "x-api-key": TOKEN}, TOKEN),
        ({"Authorization": f"Bearer {TOKEN}", "x-api-key": "dummy"}, TOKEN),
        ({"Authorization": "Bearer ollama", "x-api-key": "dummy"}, "ollama"),
    ],
)
def test_a_key_is_sent_as_clients_send_it(headers: dict[str, str], token: str) -> None:
    """As OpenAI's clients do, or Anthropic's, or without a word before it; of two the one that looks like
    ours."""
    assert presented(CIMultiDict(headers)) == token


@pytest.mark.parametrize("header", ["evil\r\nX: 1", "é" * 500, "\x1b[31m", "🙂"])
def test_a_refusal_shows_a_header_cut_and_printable(header: str) -> None:
    """Nothing of it reaches a terminal or another header as it is."""
    for refused in (admit(knock(host=header), HERE), admit(knock(origin=header), HERE)):
        assert isinstance(refused, Denial)
        assert refused.message.isascii()
        assert refused.message.isprintable()
        assert len(refused.message) < 500
