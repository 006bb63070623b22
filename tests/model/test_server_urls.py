"""URLs taken apart and put together; nothing here talks to a server."""

from __future__ import annotations

import pytest
from redis.asyncio.sentinel import SentinelConnectionPool

from orion_streams.errors import ConfigError
from orion_streams.model import server_urls
from orion_streams.runtime.connection import connect, place

MARK = "marked-password"
WITH = [
    f"redis://:{MARK}@h:1/0",
    f"redis://u:{MARK}@h",
    f"rediss://u:{MARK}@h/0?ssl_ca_certs=/ca",
    f"unix://u:{MARK}@/run/redis.sock",
    f"redis://u:{MARK}/with@slash@h/0",
    f"redis://u:{MARK}?with@mark@h/0",
    f"rediss://u:{MARK}@h:1/0?ssl_ca_certs=/a@b.pem",
    f"redis://h?password={MARK}",
    f"redis://h?db=1&password={MARK}&protocol=2",
    f"redis+sentinel://u:{MARK}@a:1,b,[::1]:3/house/2",
]
WITHOUT = [
    *("redis://h:1/0", "redis://u@h", "redis://u:@h", "redis+sentinel://a,b/house", "nonsense", ""),
    *("rediss://host:6379/0?ssl_ca_certs=/a@b.pem", "rediss://u@host:6379/0?db=1&ssl_ca_certs=/a:c@b.pem"),
]


@pytest.mark.parametrize("url", WITH)
def test_a_password_is_found_and_not_shown(url: str) -> None:
    """A password is found wherever in a URL it stands, and the printed form lacks it."""
    assert server_urls.has_password(url)
    assert MARK not in server_urls.shown(url)
    assert not server_urls.has_password(server_urls.shown(url))


@pytest.mark.parametrize("url", WITHOUT)
def test_a_url_without_password_is_shown_as_it_is(url: str) -> None:
    """A URL without a password has none; its printed form differs only by an empty password."""
    assert not server_urls.has_password(url)
    assert server_urls.shown(url) == url.replace("u:@", "u@")


@pytest.mark.parametrize("url", ["redis://h:1/0", "redis://u@h:1/0", "redis://u:old@h:1/0"])
def test_a_password_goes_into_a_url(url: str) -> None:
    """A password replaces the one in the URL, and redis-py reads it back, whatever it contains."""
    password = "a/b@c:d ?#%"
    held = connect(server_urls.with_password(url, password)).connection_pool.connection_kwargs
    assert (held["password"], held["host"], held["port"]) == (password, "h", 1)
    assert held.get("username") == ("u" if "u" in url.partition("@")[0][8:] else None)


def test_tls_files_go_into_a_url_over_tls_only() -> None:
    """TLS files in the URL win over those configured; without TLS none is added; host names are checked."""
    files = ("/ca", "/cert", "/key")
    assert server_urls.with_tls("redis://h", *files) == "redis://h"
    full = server_urls.with_tls("rediss://h?ssl_ca_certs=/own", *files)
    assert full == "rediss://h?ssl_ca_certs=/own&ssl_certfile=/cert&ssl_keyfile=/key"
    assert server_urls.with_tls(full, *files) == full


def test_a_sentinel_url_is_taken_apart() -> None:
    """A sentinel URL gives hosts with ports, the service, and the primary's own URL with its options."""
    found = server_urls.sentinels("redis+sentinel://u:p@a:1,b,[::1]:3/house/2?socket_keepalive=1")
    assert found.hosts == (("a", 1), ("b", 26_379), ("::1", 3))
    assert found.service == "house"
    assert found.url == "redis://u:p@primary/2?socket_keepalive=1"


@pytest.mark.parametrize("scheme", ["redis+sentinel", "rediss+sentinel"])
def test_a_sentinel_url_connects_to_the_primary(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool asks the named sentinels for the primary, over TLS where the URL says so; the primary gets
    its password and the sentinels theirs, each only its own; nobody retries."""
    monkeypatch.setenv("ORION_SENTINEL_PASSWORD", "for sentinels")
    redis = connect(f"{scheme}://u:p@a:1,b/house/2", timeout_s=3)
    pool = redis.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert ("SSL" in pool.connection_class.__name__) == (scheme == "rediss+sentinel")
    held = pool.connection_kwargs
    assert (held["username"], held["password"], held["db"], held["socket_timeout"]) == ("u", "p", 2, 3)
    assert held["retry"].get_retries() == 0
    for sentinel in pool.sentinel_manager.sentinels:
        asking = sentinel.connection_pool.connection_kwargs
        assert (asking["password"], asking.get("username")) == ("for sentinels", None)
        assert asking["retry"].get_retries() == 0
    assert place(redis) == "the primary of house"


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://u:{MARK}@a:1",
        f"redis+sentinel://u:{MARK}@a:x/house",
        f"redis+sentinel://u:{MARK}@a,,b/house",
        f"redis+sentinel://u:{MARK}@a/house/x",
        f"redis://u:{MARK}/slash@h/0",
        f"http://u:{MARK}@h",
        MARK,
    ],
)
def test_a_url_that_is_none_is_not_repeated(url: str) -> None:
    """ConfigError says what was expected, and never quotes the URL, which may hold a password."""
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert 'redis.url: expected a URL, e.g. "redis' in str(caught.value)
    assert MARK not in str(caught.value)
