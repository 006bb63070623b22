"""What may not stand in a streams.toml that everybody on the machine can read. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.config import INSTALLED_TOML, Config
from orion_streams.errors import ConfigError
from orion_streams.model import server_urls
from orion_streams.model.alert_rules import AlertTarget


def check(config: Config) -> None:
    """Raise ConfigError that names the keys with a secret and what to write instead; never the secret."""
    if found := list(open_secrets(config)):
        raise ConfigError(
            f"everybody on this machine may read {INSTALLED_TOML}: {'; '.join(found)} (nothing is written)"
        )


def open_secrets(config: Config) -> Iterator[str]:
    """Yield, for each secret, where it stands and where it belongs."""
    if server_urls.has_password(config.redis.url):
        yield (
            "redis.url holds a password: write it into a file of mode 0600, e.g. "
            '/etc/orion/redis-password, and name that: redis.password_file = "/etc/orion/redis-password"'
        )
    for name, target in config.alerts_to.items():
        if is_secret(target):
            yield (
                f"alerts_to.{name}.webhook: who knows it can use it: write it into a file of mode 0600, "
                f'e.g. /etc/orion/{name}.url, and name that: webhook_file = "/etc/orion/{name}.url"'
            )


def is_secret(target: AlertTarget) -> bool:
    """Whether a target's URL alone lets whoever knows it in: unless a token does, which Gotify always asks
    for."""
    return bool(target.webhook) and target.form != "gotify" and not target.token_file
