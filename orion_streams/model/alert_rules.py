"""The tables [[alerts]] and [alerts_to.NAME]: what a person is told of, and how. Pure.

They decide nothing: no request goes elsewhere for them, so they stand outside of the log's rules, and need
no revision.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from orion_streams.model.policy import GUEST_PREFIX, Count, ModelName, Name, Natural, Permille
from orion_streams.model.toml_values import place_fault

Kind = Annotated[
    Literal[
        "hot", "full", "silent", "no_sensor", "breaker", "wait", "queue", "errors",
        "no_router", "archive_behind", "unread_client",
    ],
    Meta(examples=["hot"]),
]  # fmt: skip
Severity = Literal["info", "warning", "critical"]
Form = Literal["json", "ntfy", "gotify", "home_assistant"]

OF_NODES = ("hot", "full", "silent", "no_sensor", "breaker")
"""Kinds that hold for a node: each node has an alert of its own."""
OF_REQUESTS = ("wait", "queue", "errors")
SEEN_LIVE = ("no_router", "archive_behind", "unread_client")
"""Kinds that the log cannot tell: whoever sends looks for himself, and no replay judges them."""
BELONGS = {
    "over_ms": ("wait",),
    "over": ("queue",),
    "over_permille": ("errors",),
    "window_ms": ("errors",),
    "least": ("errors",),
    "nodes": (*OF_NODES, "errors"),
    "clients": OF_REQUESTS,
    "models": OF_REQUESTS,
}
"""By key: the kinds that read it. In a rule of another kind it is refused."""


class AlertRule(Struct, frozen=True, omit_defaults=True):
    """One [[alerts]] table. `for_ms`: what it is about must hold for so long. `over_ms`: the longest wait;
    `over`: so many waiting requests; `over_permille`: the share of requests that ended in an error or
    expired, of at least `least` within `window_ms`. `nodes`, `clients`, `models`: about these only; empty:
    all."""

    name: Annotated[Name, Meta(examples=["hot"])]
    kind: Kind
    for_ms: Natural = 60_000
    over_ms: Count = 300_000
    over: Natural = 20
    over_permille: Permille = 200
    window_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 600_000
    least: Count = 10
    nodes: tuple[Name, ...] = ()
    clients: tuple[Name, ...] = ()
    models: tuple[ModelName, ...] = ()
    severity: Severity = "warning"


class AlertTarget(Struct, frozen=True):
    """One [alerts_to.NAME] table: a webhook, or a command that gets JSON on its stdin. `form`: whose API
    the webhook is. `allow_public`: it need not be an address of this house. `group_ms`: what begins or ends
    within so long is one message; `most_per_hour`: more messages than that become one; `tries`: of one
    message, and `timeout_ms` of one try."""

    webhook: str = ""
    webhook_file: str = ""
    token_file: str = ""
    form: Form = "json"
    allow_public: bool = False
    command: tuple[str, ...] = ()
    timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = 10_000
    group_ms: Annotated[int, Meta(ge=0, le=600_000)] = 5_000
    most_per_hour: Annotated[int, Meta(ge=1, le=1_000)] = 30
    tries: Annotated[int, Meta(ge=1, le=20)] = 8


SECRET_FILES = ("webhook_file", "token_file")
"""Keys of a target that name the file of a secret."""


def credential_of(target: str, key: str) -> str:
    """Return the name by which systemd shows a service the file of a target's secret."""
    return f"alerts.{target}.{key}"


DEFAULT_ALERTS = (
    AlertRule("hot", "hot", for_ms=300_000),
    AlertRule("full", "full", for_ms=300_000),
    AlertRule("silent", "silent", severity="critical"),
    AlertRule("no-sensor", "no_sensor", for_ms=300_000),
    AlertRule("breaker", "breaker"),
    AlertRule("wait", "wait", for_ms=0),
    AlertRule("queue", "queue"),
    AlertRule("errors", "errors", for_ms=0),
    AlertRule("no-router", "no_router", severity="critical"),
    AlertRule("archive-behind", "archive_behind", for_ms=600_000),
    AlertRule("unread-client", "unread_client"),
)
"""What holds where streams.toml has no [[alerts]]. Without a target nobody is told."""


def contradictions(
    rules: Collection[AlertRule],
    targets: Mapping[str, AlertTarget],
    nodes: Collection[str],
    clients: Collection[str],
) -> Iterator[str]:
    """Yield what is wrong with values that are valid one by one."""
    seen = set[str]()
    for index, rule in enumerate(rules):
        where = f"alerts[{index}]"
        if rule.name in seen:
            yield f'{where}.name = "{rule.name}": there are two of this name: expected another'
        seen.add(rule.name)
        yield from foreign_keys(where, rule)
        for each in rule.nodes:
            if each not in nodes:
                yield f'{where}.nodes = "{each}": no such node; known: {", ".join(sorted(nodes))}'
        for each in rule.clients:
            if each not in clients and not each.startswith(GUEST_PREFIX):
                yield f'{where}.clients = "{each}": no such client; add [clients.{each}]'
    for name, target in targets.items():
        yield from faults_of(name, target)


def foreign_keys(where: str, rule: AlertRule) -> Iterator[str]:
    """Yield keys that a rule of this kind does not read."""
    defaults = AlertRule(rule.name, rule.kind)
    for key, kinds in BELONGS.items():
        if rule.kind not in kinds and getattr(rule, key) != getattr(defaults, key):
            known = ", ".join(kinds)
            yield f'{where}.{key}: no rule of kind "{rule.kind}" reads it; expected one of kind {known}'


def faults_of(name: str, target: AlertTarget) -> Iterator[str]:
    """Yield what is wrong with a target; never its webhook, which may be a secret."""
    where = f"alerts_to.{name}"
    ways = [key for key in ("webhook", "webhook_file", "command") if getattr(target, key)]
    if len(ways) > 1:
        yield f"{where}: {' and '.join(ways)}: expected one of them"
    if "command" in ways:
        if target.form != "json" or target.token_file:
            yield f"{where}.command: it gets JSON on its stdin: form and token_file belong to a webhook"
        if not target.command[0].strip() or any("\0" in word for word in target.command):
            yield f"{where}.command: {COMMAND}"
    elif target.webhook and (fault := form_fault(target.form, target.webhook)):
        yield f"{where}.webhook: {fault}"


def form_fault(form: Form, url: str) -> str:
    """Judge whether a good URL is one of this form; "" if it is."""
    if form == "gotify" and "?" in url:
        return "the token stands in the file that token_file names, not in the URL"
    return NTFY if form == "ntfy" and not ntfy_topic(url) else ""


COMMAND = 'expected a program and its arguments, e.g. ["/usr/local/bin/tell", "--phone"]'
NTFY = 'expected the server and its topic, e.g. "http://ntfy.lan/orion"'
WEBHOOK = 'a URL, e.g. "http://homeassistant.local:8123/api/webhook/ID"'


def webhook_fault(url: str) -> str:
    """Judge a webhook; "" is none. What is said holds nothing of the URL, which may be a secret."""
    if not url:
        return ""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("http", "https"):
        return f"{WEBHOOK}; http:// or https:// is missing"
    place = re.split(r"[/?#]", rest)[0]
    if "@" in place:
        return f"{WEBHOOK}; no user or password stands in it: token_file names the file of a token"
    if not re.fullmatch(r"[!-~]+", url) or re.search(r"[#\\]", url):
        return f"{WEBHOOK}, in plain letters without spaces, # and \\"
    fault = place_fault(place)
    return f"{WEBHOOK}{fault}".rstrip(";") if fault else ""


def ntfy_topic(url: str) -> str:
    """Return the topic in the URL of ntfy: its path; "" if that is none."""
    parts = urlsplit(url)
    topic = parts.path.strip("/")
    return topic if re.fullmatch(r"[-_A-Za-z0-9]{1,64}", topic) and not parts.query else ""
