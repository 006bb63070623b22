"""Whom alerts are told: each target of streams.toml with its secrets, and one try to tell it.

What is said of a try names neither URL nor token: both may be secrets.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from orion_streams import config as configuration
from orion_streams import environment
from orion_streams.agents.alert_command import run_command
from orion_streams.agents.alert_webhook import post
from orion_streams.config import Config
from orion_streams.errors import ConfigError
from orion_streams.model.alert_rules import AlertTarget, credential_of, form_fault, webhook_fault
from orion_streams.protocol.alert_messages import Message, encoded, request_of

NOBODY = "alerts_to: nobody is told: add [alerts_to.NAME] with a webhook or a command (docs/ALERTS.md)"


class Target(Struct, frozen=True):
    """One [alerts_to.NAME] with its secrets."""

    name: str
    rules: AlertTarget
    webhook: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Target({self.name})"

    async def tell(self, message: Message) -> str:
        """Try once, and return what came back. Raise TellError otherwise."""
        timeout_s = self.rules.timeout_ms / 1000
        if self.rules.command:
            return await run_command(self.rules.command, encoded(message), timeout_s)
        outgoing = request_of(self.rules.form, self.webhook, self.token, message)
        return await post(outgoing, timeout_s, allow_public=self.rules.allow_public)


def targets_of(config: Config) -> list[Target]:
    """Return all targets. Raises ConfigError without any, or for a secret that cannot be used."""
    if not config.alerts_to:
        raise ConfigError(NOBODY)
    return [resolved(name, rules) for name, rules in sorted(config.alerts_to.items())]


def resolved(name: str, rules: AlertTarget) -> Target:
    """Return a target with its secrets: the environment goes before files, those before streams.toml.
    Raises ConfigError."""
    if rules.command:
        return Target(name, rules)
    where = f"alerts_to.{name}"
    webhook = environment.alert_secret("WEBHOOK", name) or rules.webhook
    if not webhook and rules.webhook_file:
        webhook = read(name, "webhook_file", rules.webhook_file, "the URL")
    token = environment.alert_secret("TOKEN", name) or ""
    if not token and rules.token_file:
        token = read(name, "token_file", rules.token_file, "the token")
    if not webhook:
        variable = f"ORION_ALERT_WEBHOOK_{name.upper().replace('-', '_')}"
        raise ConfigError(f"{where}: expected webhook, webhook_file or command, or {variable}")
    if fault := webhook_fault(webhook):
        raise ConfigError(f"{where}: its webhook: expected {fault}")
    if fault := form_fault(rules.form, webhook):
        raise ConfigError(f"{where}: its webhook: {fault}")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"{where}: its token: expected plain letters without spaces")
    return Target(name, rules, webhook, token)


def read(name: str, key: str, path: str, what: str) -> str:
    """Read the file of a target's secret; of a service, what systemd shows it of that file. Raises
    ConfigError."""
    if held := environment.credential(credential_of(name, key)):
        return configuration.read_secret(held, "LoadCredential", what, guarded=True)
    return configuration.read_secret(Path(path).expanduser(), f"alerts_to.{name}.{key}", what)
