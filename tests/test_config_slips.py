"""streams.toml as people and editors write it: each slip is told in one line that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from orion_streams import config
from orion_streams.config import parse
from orion_streams.errors import ConfigError
from orion_streams.runtime.connection import connect

NODE = '[nodes.pi]\nollama = "http://127.0.0.1:11434"\n'
REDIS = "[redis]\nurl = "

SLIPS = {
    "a server's option": (
        REDIS + '"redis://h?nonsense=1"',
        '"unix:///run/redis.sock"; "nonsense" is no option of it, or has another value',
    ),
    "an option of a socket": (REDIS + '"unix:///run/r?db=x"', '"db" is no option of it, or has'),
    "an option without a value": (REDIS + '"redis://h?x="', '"x" is no option of it, or has'),
    "an option of sentinels": (
        REDIS + '"redis+sentinel://h/s?socket_timeout=abc"',
        '"socket_timeout" is no option of it, or has another value',
    ),
    "a sentinel's host": (REDIS + '"redis+sentinel://a b/s"', 'redis.url = "redis+sentinel://a b/s": e'),
    "a time that each read would exceed": (
        REDIS + '"redis://h?socket_timeout=0.5"',
        '"socket_timeout" is n',
    ),
    "TLS where there is none": (REDIS + '"redis://h?ssl_ca_certs=/x"', '"ssl_ca_certs" is no option of it'),
    "a socket that is kept alive": (
        REDIS + '"unix:///r?socket_keepalive=1"',
        '"socket_keepalive" is no op',
    ),
    "a sentinel's port": (
        REDIS + '"redis+sentinel://h:0/s"',
        'redis.url = "redis+sentinel://h:0/s": expect',
    ),
    "a line within a url": (REDIS + '"redis://h\\nx"', 'redis.url = "redis://h\\nx": expected a URL'),
    "a fragment": (REDIS + '"redis://h#x"', 'redis.url = "redis://h#x": expected a URL'),
    "no such database": (REDIS + '"redis://h/999999"', "after the host stands the number of a database"),
    "a host that is too long": (
        f'[nodes.pi]\nollama = "http://{".".join(["a" * 60] * 5)}:1"',
        ': expected a URL, e.g. "http://127.0.0.1:11434"',
    ),
    "an infinite number": ("revision = inf", "revision = inf: expected a whole number"),
    "a number of many digits": (f"revision = {'9' * 5000}", "not valid TOML: "),
    "lists in lists": (f"x = {'[' * 5000}", "not valid TOML: "),
    "a key of two lines": ('"a\\nb" = 1', "a\\nb: no such key; known: "),
    "a key for the terminal": ('[nodes."\\u001b[31m"]\nslots = 1', 'nodes.\\x1b[31m = "\\u001b[31m": exp'),
    "a value in no letters": ('prefix = "a\N{NO-BREAK SPACE}b"', 'prefix = "a\\xa0b": expected up to 64'),
    "names that are no list": (
        '[clients]\nnames = "brain"',
        'clients.names = "brain": expected a list, e.g. names = ["brain","kitchen"]',
    ),
    "a model's name with a dot": (
        NODE + "[models.llama3.2]\nnum_ctx = 1",
        'models.llama3.2: no such table; a model\'s name stands in quotes, as [models."llama3.2:3b"]',
    ),
    "a model's name with a colon": (
        NODE + "[models.gemma3:4b]\nnum_ctx = 1",
        '; a model\'s name stands in quotes, as [models."llama3.2:3b"]',
    ),
    "one model in two cases": (
        NODE + '[models.gemma3]\nnum_ctx = 1\n[models."Library/Gemma3"]\nnum_ctx = 2',
        "models: the same model twice",
    ),
    "the robot's full name": (
        '[nodes.pi]\nollama = "http://Orion-Edge.local.:11434"',
        "nodes.pi: orion-edge is the robot and never runs inference",
    ),
    "silent too soon": (
        NODE + "[policy]\nstale_ms = 1500",
        "policy.stale_ms = 1500: expected at least twice limits.health_ms (1000)",
    ),
    "a pause that does not grow": (
        NODE + "[policy]\nretry_pause_ms = 60000",
        "policy.retry_pause_ms = 60000: expected at most policy.retry_pause_max_ms (30000, the default)",
    ),
    "more runs than health lists": (
        "[nodes.pi]\nslots = 190\n[policy]\nprefetch = 3",
        "nodes.pi.slots = 190: expected at most 192, policy.prefetch (3) included",
    ),
}


@pytest.mark.parametrize("what", SLIPS)
def test_a_slip_is_told_in_one_line(what: str) -> None:
    """With nothing in it that would break the line, or the terminal."""
    text, expected = SLIPS[what]
    with pytest.raises(ConfigError) as caught:
        parse(text, "house.toml")
    message = str(caught.value)
    assert message.startswith("house.toml: ")
    assert expected in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:6379/15?socket_timeout=2.5&protocol=2&client_name=a&socket_keepalive=True",
        "rediss://h?ssl_ca_certs=/a%20b&ssl_cert_reqs=none&ssl_check_hostname=false",
        "redis+sentinel://[::1]:26379,h2/house/3?max_connections=5",
        "unix:///run/my redis.sock?db=1",
        "redis://my-host_1.lan.:6379",
    ],
)
def test_what_a_server_takes_passes(url: str) -> None:
    """Options, sentinels, sockets; a client can be made of each."""
    assert parse(f'{NODE}{REDIS}"{url}"').redis.url == url
    if "ssl_ca_certs" not in url:
        assert connect(url) is not None


@pytest.mark.parametrize(
    "url", ["redis://h?retry=3", "redis+sentinel://h/s?nonsense=1", "rediss://h?ssl_cert_reqs=x"]
)
def test_a_url_of_the_command_line_is_judged_too(url: str) -> None:
    """Before the first connection, which would end in a traceback."""
    with pytest.raises(ConfigError, match=r"redis\.url: expected a URL, e\.g\. .* is no option of it"):
        connect(url)


def test_a_file_may_begin_with_a_mark_and_end_its_lines_in_two_bytes(tmp_path: Path) -> None:
    """As an editor on Windows writes it."""
    path = tmp_path / "streams.toml"
    path.write_bytes(b"\xef\xbb\xbfrevision = 7\r\n" + NODE.replace("\n", "\r\n").encode())
    assert config.read(path).revision == 7
