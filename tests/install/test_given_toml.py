"""A streams.toml that a person wrote: completed where that is sure, refused where it holds a secret."""

from __future__ import annotations

import pytest

from orion_streams import config as configuration
from orion_streams.cli.install import open_secrets
from orion_streams.cli.install.starter import with_server
from orion_streams.errors import ConfigError

URL, HELD = "redis://orion-owner@192.168.1.10:6379/0", "/etc/orion/passwords/orion-owner"
NODE = "[nodes.orion-master]\n"
PHONE = "[alerts_to.phone]\nform = "


@pytest.mark.parametrize(
    ("toml", "instead"),
    [
        ('[redis]\nurl = "redis://:s3cret@orion-master:6379/0"', "redis.password_file = "),
        ('[redis]\nurl = "redis://orion-master:6379/0?password=s3cret"', "redis.password_file = "),
        ('[redis]\nurl = "redis+sentinel://me:s3cret@a:26379/house"', "redis.password_file = "),
        (f'{PHONE}"ntfy"\nwebhook = "https://ntfy.sh/s3cret"', 'webhook_file = "/etc/orion/phone.url"'),
        (f'{PHONE}"home_assistant"\nwebhook = "http://ha.lan/api/webhook/s3cret"', "webhook_file = "),
        (f'{PHONE}"json"\nwebhook = "http://here.lan/s3cret"', "webhook_file = "),
    ],
)
def test_a_secret_is_refused_with_where_it_belongs(toml: str, instead: str) -> None:
    """And is not in the words."""
    with pytest.raises(ConfigError) as refused:
        open_secrets.check(configuration.parse(f"{NODE}{toml}"))
    assert instead in str(refused.value) and "mode 0600" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "toml",
    [
        '[redis]\nurl = "redis://me@h"\npassword_file = "/etc/orion/redis-password"',
        f'{PHONE}"ntfy"\nwebhook = "http://ntfy.lan/orion"\ntoken_file = "/etc/orion/ntfy.token"',
        f'{PHONE}"gotify"\nwebhook = "http://gotify.lan:8080"',
        '[alerts_to.phone]\nwebhook_file = "/etc/orion/phone.url"',
        '[alerts_to.phone]\ncommand = ["/usr/bin/lamp"]',
    ],
)
def test_what_is_no_secret_may_be_read(toml: str) -> None:
    """A user, a topic behind a token, a server that asks for one, the name of a file."""
    open_secrets.check(configuration.parse(f"{NODE}{toml}"))


@pytest.mark.parametrize(
    "toml",
    [
        f'redis.fsync = "always"\n{NODE}',
        f'redis = {{ fsync = "always" }}\n{NODE}',
        f'{NODE}[ redis ]\nfsync = "always"',
        f'{NODE}  [redis]\nfsync = "always"',
        f'{NODE}["redis"]\nfsync = "always"',
        f'{NODE}[redis]\nfsync = "always"\npassword_file = """\\\n/old"""',
        f'{NODE}[redis]\nfsync = "always"\n"url" = "redis://h"',
        f'clients.names = ["""\n[redis]\n"""]\n{NODE}',
    ],
)
def test_a_table_that_it_cannot_complete_is_refused(toml: str) -> None:
    """With the lines to write; once they stand there, however that is written, it stays as it is."""
    with pytest.raises(ConfigError) as refused:
        with_server(toml, URL, HELD)
    lines = str(refused.value).partition("in place of its own: ")[2].partition(" (nothing")[0]
    written = f"{NODE}[ redis ]\nfsync = 'always'\n" + lines.replace(" and ", "\n")
    assert with_server(written, URL, HELD) == written


@pytest.mark.parametrize(
    "table",
    ["[redis]\nfsync = 'always'\nurl = 'redis://old'", "[redis]  # ours", "", f'[redis]\nurl="{URL}"'],
)
def test_a_table_that_is_written_as_usual_is_completed(table: str) -> None:
    """All else stays as it was, and a second time nothing is done."""
    toml = f"# mine\n{table}\n{NODE.strip()}  # big\n"
    made = with_server(toml, URL, HELD)
    config = configuration.parse(made)
    assert (config.redis.url, config.redis.password_file) == (URL, HELD)
    assert made.startswith("# mine\n") and "[nodes.orion-master]  # big\n" in made
    assert config.redis.fsync == ("always" if "fsync" in table else "everysec")
    assert with_server(made, URL, HELD) == made
