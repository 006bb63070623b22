"""The page's cookie: it stands for a key, and is none. Pure.

Browsers send cookies to every port of a host, so the cookie holds no key but a proof of one under the
gateway's secret: whoever reads it elsewhere cannot speak for the key where keys are asked for, and it ends
with the key.
"""

from __future__ import annotations

import hashlib
import hmac
from http import cookies

from msgspec import DecodeError, Struct, json

from orion_streams.gateway.keys import Key, KeyTable
from orion_streams.gateway.refusal import Refusal

COOKIE = "orion_session"
KEEP_S = 400 * 86_400
"""As long as browsers keep one at most: a key is asked for once."""
MAX_BYTES = 4_000
"""Of the body that gives a key, and of a header that is looked into."""


class Given(Struct, frozen=True):
    """What a page sends to begin a session."""

    key: str


def given(raw: bytes) -> str:
    """Return the key of a body. Raise Refusal 400."""
    try:
        return json.decode(raw, type=Given).key
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, 'expected {"key": "orion-…"}') from error


def proof(table: KeyTable, key: Key) -> str:
    """Return what the cookie of a key holds."""
    made = hmac.new(table.secret_bytes, f"page session {key.hash}".encode(), hashlib.sha256)
    return f"{key.name}.{made.hexdigest()}"


def key_of(table: KeyTable, header: str) -> Key | None:
    """Return the key for which a Cookie header stands; None if there is none, or it is no more."""
    if COOKIE not in header or len(header) > MAX_BYTES:
        return None
    try:
        morsel = cookies.SimpleCookie(header).get(COOKIE)
    except cookies.CookieError:
        return None
    value = morsel.value if morsel is not None else ""
    name = value.partition(".")[0]
    for key in table.keys:
        if key.name == name and hmac.compare_digest(proof(table, key).encode(), value.encode()):
            return key
    return None


def set_cookie(value: str, *, secure: bool) -> str:
    """Return the header that sets the cookie, or with "" ends it. `secure`: it came over TLS."""
    keep_s = KEEP_S if value else 0
    marks = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Max-Age={keep_s}; Path=/; HttpOnly; SameSite=Strict{marks}"
