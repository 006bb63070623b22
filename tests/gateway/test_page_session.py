"""The page's cookie, and who gets in by it: each rule, with its control."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orion_streams.gateway.access import NOBODY, SESSION, Caller, Denial, Knock, admit, wants_page
from orion_streams.gateway.keys import Key, KeyTable, decode, encode
from orion_streams.gateway.page_session import COOKIE, MAX_BYTES, given, key_of, proof, set_cookie
from orion_streams.gateway.refusal import Refusal
from tests.gateway.test_access import ANNA, HERE, HOUSE, KEY, status

SECRET, OTHER = "5" * 64, "6" * 64
TABLE = KeyTable(SECRET, (KEY, replace(KEY, name="bert", client="key-bert", hash="b" * 64)))
COOKIES = f"theme=dark; {COOKIE}={proof(TABLE, KEY)}; x=1"
FAR = Knock(peer="10.0.0.9", method="GET", path="/orion/v1/live", host="grid.home.arpa:11435")
OWN = "http://grid.home.arpa:11435"
FOREIGN = ["http://grid.home.arpa:3000", "http://localhost:3000", "https://evil.example", "null"]


def with_cookie(method: str, path: str, origin: str = "") -> Knock:
    """A request of a page from afar, with Anna's cookie."""
    return replace(FAR, method=method, path=path, origin=origin, key=KEY, by_cookie=True)


def test_a_cookie_stands_for_its_key_and_holds_none() -> None:
    """It names the key, and nothing in it opens what a key opens."""
    value = proof(TABLE, KEY)
    assert key_of(TABLE, COOKIES) == KEY
    assert value.startswith("anna.")
    assert KEY.hash not in value
    header = set_cookie(value, secure=False)
    assert header.startswith(f"{COOKIE}={value}; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=34560000"} == {*header.split("; ")[1:]}
    assert set_cookie(value, secure=True).endswith("; Secure")
    assert "Max-Age=0" in set_cookie("", secure=False)


@pytest.mark.parametrize(
    "header",
    [
        "", f"{COOKIE}=", f"{COOKIE}=anna", f"{COOKIE}=anna.{'0' * 64}",
        f"{COOKIE}=bert.{proof(TABLE, KEY)[5:]}",
        f"{COOKIE}={proof(TABLE, KEY)[:-1]}", f"not_{COOKIE}={proof(TABLE, KEY)}", f"{COOKIE}=\u00e9.x",
        f"{COOKIE}={proof(TABLE, KEY)}; pad=" + "x" * MAX_BYTES, f"\x00{COOKIE}=;=;,",
    ],
)  # fmt: skip
def test_another_cookie_stands_for_nobody(header: str) -> None:
    """Forged, cut, another key's, too long, or no cookie at all."""
    assert key_of(TABLE, header) is None


def test_a_cookie_ends_with_its_key() -> None:
    """Removed, made anew under its name, or under another secret."""
    assert key_of(KeyTable(SECRET, TABLE.keys[1:]), COOKIES) is None
    assert key_of(KeyTable(SECRET, (replace(KEY, hash="c" * 64),)), COOKIES) is None
    assert key_of(KeyTable(OTHER, TABLE.keys), COOKIES) is None


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"key": 7}', b"[]", b"\xff", b'{"key": null}'])
def test_what_gives_no_key_is_refused(raw: bytes) -> None:
    """400, and what was expected; the control: a key."""
    with pytest.raises(Refusal, match="expected") as refused:
        given(raw)
    assert refused.value.status == 400
    assert given(b'{"key": "orion-x"}') == "orion-x"


def test_the_page_needs_no_key_and_its_data_does() -> None:
    """From anywhere: the page, its files, and its session; nothing that the grid says."""
    for knock in (
        replace(FAR, path="/", accept="text/html"),
        replace(FAR, path="/orion/page/page.js"),
        replace(FAR, path=SESSION, method="POST"),
        replace(FAR, path=SESSION, method="DELETE"),
    ):
        assert admit(knock, HOUSE) == NOBODY
    for path in ("/", "/orion/v1/live", "/orion/v1/past", "/orion/v1/timeline", "/orion/v1/why", SESSION):
        assert status(admit(replace(FAR, path=path), HOUSE)) == 401
    assert status(admit(replace(FAR, path="/", method="PUT", accept="text/html"), HOUSE)) == 401


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("TEXT/HTML", True),
        ("text/plain, text/html;q=0.5", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("text/htmlx", False),
    ],
)
def test_only_browsers_are_given_the_page(accept: str, is_page: bool) -> None:
    """Programs say that they take anything, or JSON."""
    assert wants_page(accept) is is_page


def test_a_cookie_reads_and_its_own_page_writes() -> None:
    """As its key's client; a page under any name of this server is its own by the cookie."""
    for knock in (
        with_cookie("GET", "/orion/v1/live"),
        with_cookie("GET", "/orion/v1/live", OWN),
        with_cookie("POST", "/api/generate", OWN),
    ):
        assert admit(knock, HOUSE) == ANNA
    assert admit(with_cookie("DELETE", SESSION, OWN), HOUSE) == NOBODY
    looking = replace(KEY, view_only=True)
    refused = admit(replace(with_cookie("POST", "/api/generate", OWN), key=looking), HOUSE)
    assert isinstance(refused, Denial)
    assert (refused.status, "looking only" in refused.message) == (403, True)


@pytest.mark.parametrize("origin", ["", *FOREIGN])
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/generate"), ("DELETE", SESSION)])
def test_a_foreign_page_writes_nothing_with_the_cookie(origin: str, method: str, path: str) -> None:
    """Not even of the same host at another port, to which browsers send the cookie; nor one that tells no
    origin. The control: the same without the cookie is what it was."""
    assert status(admit(with_cookie(method, path, origin), HOUSE)) == 403
    key = replace(with_cookie("POST", "/api/generate", "http://localhost:3000"), by_cookie=False)
    assert admit(key, HOUSE) == ANNA


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_begins_no_session(origin: str) -> None:
    """It would make this browser somebody else. The control: our own page, and a program."""
    begins = replace(FAR, path=SESSION, method="POST")
    assert status(admit(replace(begins, origin=origin), HOUSE)) == 403
    assert admit(replace(begins, origin=OWN), HOUSE) == NOBODY
    assert admit(begins, HOUSE) == NOBODY


def test_under_a_foreign_name_loopback_stays_shut() -> None:
    """A page that has itself resolved to this machine gets neither the page nor a session."""
    for knock in (
        replace(FAR, peer="127.0.0.1", path="/", accept="text/html"),
        replace(FAR, peer="127.0.0.1", path=SESSION, method="POST", origin=OWN),
    ):
        assert status(admit(knock, HERE)) == 403


def test_who_may_see_all() -> None:
    """This machine without a key, and a key that was made so: no other, and none that came by a proxy."""
    here = replace(FAR, peer="127.0.0.1", host="localhost:11435")
    assert admit(here, HERE) == Caller("gateway", sees_all=True)
    assert status(admit(replace(here, forwarded=True), HERE)) == 401
    assert admit(FAR, replace(HOUSE, insecure=True)) == Caller("gateway")
    assert admit(replace(FAR, peer="192.168.1.20"), HOUSE) == Caller("kitchen")
    assert admit(replace(here, key=KEY, token="t"), HERE) == ANNA
    seeing = replace(KEY, sees_all=True)
    assert admit(replace(FAR, key=seeing), HOUSE) == replace(ANNA, sees_all=True)


def test_a_file_of_keys_is_read_by_older_versions() -> None:
    """What a key does not have is not written: they know no more fields than they had."""
    assert b"sees_all" not in encode(TABLE)
    seeing = KeyTable(SECRET, (Key(name="a", client="key-a", hash="a" * 64, created="x", sees_all=True),))
    assert decode(encode(seeing)) == seeing
