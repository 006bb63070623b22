"""A server's URL says all of it: where, by which path, as whom, over TLS or not. Pure.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]       rediss:// the same over TLS, unix://PATH a socket
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT]/SERVICE[/DB]       rediss+sentinel://

Options go along as a query: ?ssl_ca_certs=FILE. `shown` is the only form for people's eyes.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit, urlunsplit

from msgspec import Struct

SENTINEL_PORT = 26_379
TLS, BY_SENTINELS = ("rediss", "rediss+sentinel"), ("redis+sentinel", "rediss+sentinel")
_USER_INFO = re.compile(r"^([^:/]*://)([^:/@?#]*)(:.*)?@", re.DOTALL)
"""Up to the last @: a password with a slash in it is one all the same."""
_QUERY = re.compile(r"\?[a-z_]+=.*", re.DOTALL)
"""Not every ?, as that may stand in a password."""
_IN_QUERY = re.compile(r"(?<=[?&])password=[^&#]*&?")


class Sentinels(Struct, frozen=True):
    """Who knows the primary. `url`: the primary's own, without its place."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    url: str


def has_password(url: str) -> bool:
    """Whether a password stands in it."""
    found = _user_info(url)
    return bool(found and found[3] not in (None, ":")) or bool(_IN_QUERY.search(url))


def shown(url: str) -> str:
    """Return the URL without its password."""
    found = _user_info(url)
    if found:
        user = f"{found[2]}@" if found[2] else ""
        url = found[1] + user + url[found.end() :]
    return _IN_QUERY.sub("", url).rstrip("?&")


def without_user(url: str) -> str:
    """Return the URL without user and password."""
    scheme, _, rest = _taken_apart(shown(url))
    return scheme + rest


def with_user(url: str, user: str) -> str:
    """Return the URL with this user instead of its own, without a password."""
    scheme, _, rest = _taken_apart(shown(url))
    return f"{scheme}{quote(user, safe='')}@{rest}"


def user_of(url: str) -> str:
    """Return the user that a URL names; "" for none."""
    return unquote(_taken_apart(url)[1])


def with_password(url: str, password: str) -> str:
    """Return the URL with this password instead of its own."""
    scheme, user, rest = _taken_apart(shown(url))
    return f"{scheme}{user}:{quote(password, safe='')}@{rest}"


def with_tls(url: str, ca_file: str, cert_file: str, key_file: str) -> str:
    """Return a TLS URL with the files of its TLS; files that it names itself win."""
    if scheme_of(url) not in TLS:
        return url
    place, _, query = url.partition("?")
    files = {"ssl_ca_certs": ca_file, "ssl_certfile": cert_file, "ssl_keyfile": key_file}
    said = parse_qs(query)
    more = urlencode({name: path for name, path in files.items() if path and name not in said}, safe="/")
    return "?".join(each for each in (place, "&".join(each for each in (query, more) if each)) if each)


def scheme_of(url: str) -> str:
    """Return what stands before `://`."""
    return url.partition("://")[0].lower()


def sentinels(url: str) -> Sentinels:
    """Parse a sentinel URL. Raises ValueError for one that is none."""
    parts = urlsplit(url)
    user, _, places = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    hosts = tuple(_host(place) for place in places.split(","))
    if not service or (db and not db.isdigit()):
        raise ValueError("no service")
    scheme = parts.scheme.removesuffix("+sentinel")
    own = urlunsplit((scheme, f"{user}@primary" if user else "primary", db, parts.query, ""))
    return Sentinels(hosts, service, own)


def _host(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, SENTINEL_PORT if parts.port is None else parts.port


def _user_info(url: str) -> re.Match[str] | None:
    return _USER_INFO.match(_QUERY.sub("", url))  # a file's name may have an @


def _taken_apart(url: str) -> tuple[str, str, str]:
    found = _user_info(url)
    scheme, _, rest = url.partition("://")
    return (found[1], found[2], url[found.end() :]) if found else (f"{scheme}://", "", rest)
