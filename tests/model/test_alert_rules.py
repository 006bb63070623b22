"""[[alerts]] and [alerts_to.NAME] are judged when they are read, and no secret of theirs is repeated."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orion_streams.config import PACKAGED_TOML, Config, load, parse
from orion_streams.errors import ConfigError
from orion_streams.model.alert_rules import DEFAULT_ALERTS, AlertTarget, webhook_fault
from orion_streams.replay.export import harmless

NODE = "[nodes.pi]\n"
SECRET = "s3cr3t-topic"
WRONG = {
    "no name": ('[[alerts]]\nkind = "hot"', 'alerts[0].name: is missing: expected e.g. name = "hot"'),
    "no kind": ('[[alerts]]\nname = "hot"', 'alerts[0].kind: is missing: expected e.g. kind = "hot"'),
    "another kind": (
        '[[alerts]]\nname = "x"\nkind = "hott"',
        'alerts[0].kind = "hott": expected "hot" or "full"',
    ),
    "no tables": ("alerts = 3", "alerts = 3: expected tables, each as [[alerts]]"),
    "no list of tables": ("alerts = [3]", "alerts = [3]: expected tables, each as [[alerts]]"),
    "an unknown key": (
        '[[alerts]]\nname = "x"\nkind = "hot"\nfor_m = 1',
        "alerts[0].for_m: no such key; did you mean for_ms?",
    ),
    "a wrong type": (
        '[[alerts]]\nname = "x"\nkind = "hot"\nfor_ms = "1m"',
        'alerts[0].for_ms = "1m": expected a whole number',
    ),
    "one name twice": (
        '[[alerts]]\nname = "x"\nkind = "hot"\n[[alerts]]\nname = "x"\nkind = "full"',
        'alerts[1].name = "x": there are two of this name',
    ),
    "a limit of another kind": (
        '[[alerts]]\nname = "x"\nkind = "hot"\nover_ms = 5',
        'alerts[0].over_ms: no rule of kind "hot" reads it; expected one of kind wait',
    ),
    "clients of a node": (
        '[[alerts]]\nname = "x"\nkind = "silent"\nclients = ["brain"]',
        'alerts[0].clients: no rule of kind "silent" reads it',
    ),
    "an unknown node": (
        '[[alerts]]\nname = "x"\nkind = "hot"\nnodes = ["po"]',
        'alerts[0].nodes = "po": no such node; known: pi',
    ),
    "an unknown client": (
        '[[alerts]]\nname = "x"\nkind = "wait"\nclients = ["bran"]',
        'alerts[0].clients = "bran": no such client; add [clients.bran]',
    ),
    "no share": (
        '[[alerts]]\nname = "x"\nkind = "errors"\nover_permille = 1001',
        "alerts[0].over_permille = 1001: expected a whole number of at most 1000",
    ),
    "a webhook without a scheme": (
        f'[alerts_to.phone]\nwebhook = "ntfy.lan/{SECRET}"',
        "alerts_to.phone.webhook = …: expected a URL, e.g. ",
    ),
    "a webhook that is none": (
        f'[alerts_to.phone]\nwebhook = ["{SECRET}"]',
        "alerts_to.phone.webhook = …: ",
    ),
    "a target that is no table": (f'[alerts_to]\nphone = "http://h/{SECRET}"', "alerts_to.phone = …: "),
    "targets that are no table": (f'alerts_to = "http://h/{SECRET}"', "alerts_to = …: "),
    "a command that is no list": (
        f'[alerts_to.phone]\ncommand = "curl http://h/{SECRET}"',
        "alerts_to.phone.command = …: expected a list",
    ),
    "a token in the file": (f'[alerts_to.phone]\ntoken = "{SECRET}"', "alerts_to.phone.token: no such key"),
    "two ways": (
        f'[alerts_to.phone]\nwebhook = "http://h/{SECRET}"\ncommand = ["x"]',
        "alerts_to.phone: webhook and command: expected one of them",
    ),
    "a form of a command": (
        '[alerts_to.phone]\nform = "ntfy"\ncommand = ["x"]',
        "alerts_to.phone.command: it gets JSON on its stdin",
    ),
    "no program": ('[alerts_to.phone]\ncommand = [" "]', "alerts_to.phone.command: expected a program"),
    "no topic": (
        f'[alerts_to.phone]\nform = "ntfy"\nwebhook = "http://h/a/{SECRET}"',
        'alerts_to.phone.webhook: expected the server and its topic, e.g. "http://ntfy.lan/orion"',
    ),
    "a token in the URL": (
        f'[alerts_to.phone]\nform = "gotify"\nwebhook = "http://h/message?token={SECRET}"',
        "alerts_to.phone.webhook: the token stands in the file",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_in_one_line(name: str) -> None:
    """File, key and expectation; what may be a secret is not repeated."""
    text, expected = WRONG[name]
    text = f"{text}\n{NODE}" if text.startswith("alerts") else f"{NODE}{text}"
    with pytest.raises(ConfigError) as caught:
        parse(text, "house.toml")
    message = str(caught.value)
    assert message.startswith(f"house.toml: {expected}")
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("url", "says"),
    {
        "ftp://h/x": "http:// or https:// is missing",
        "http://": "a URL, e.g. ",
        "http://me:geheim@h/x": "no user or password stands in it",
        "http://h/a b": "in plain letters without spaces",
        "http://h/a\r\nX-Evil: 1": "in plain letters without spaces",
        "http://h/a\x00": "in plain letters without spaces",
        "http://h/ü": "in plain letters without spaces",
        "http://h/#x": "in plain letters without spaces",
        "http://h\\x/": "in plain letters without spaces",
        "http://h:99999/x": "a port is a number from 1 to 65535",
        "http://::1/x": "an IPv6 address stands in brackets",
        "http://h:/x": "a URL, e.g. ",
    }.items(),
)
def test_a_webhook_is_a_plain_url(url: str, says: str) -> None:
    """No control character, no user, no other scheme."""
    fault = webhook_fault(url)
    assert fault
    assert says in fault


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://ntfy.lan:8443/orion",
        "http://[fd00::1]:8123/api/webhook/-a_B?x=1",
        "http://127.0.0.1/",
    ],
)
def test_a_good_webhook_passes(url: str) -> None:
    """Names, addresses of both kinds, a path and a query."""
    assert webhook_fault(url) == ""


def test_rules_of_ones_own_replace_the_default_ones() -> None:
    """And none are none; the package's file holds the default ones, and tells nobody."""
    assert parse(NODE).alerts == DEFAULT_ALERTS == load(PACKAGED_TOML).alerts
    assert parse(f"alerts = []\n{NODE}").alerts == ()
    assert load(PACKAGED_TOML).alerts_to == {}
    [rule] = parse(
        f'{NODE}[[alerts]]\nname = "x"\nkind = "wait"\nover_ms = 5\nclients = ["key-anna"]'
    ).alerts
    assert (rule.name, rule.over_ms, rule.clients) == ("x", 5, ("key-anna",))


def test_alerts_are_no_rules_of_the_log() -> None:
    """With others, and with a target, the policy is the same: no revision is needed."""
    plain = parse(NODE)
    other = parse(f'alerts = []\n{NODE}[alerts_to.phone]\nwebhook = "http://h/x"')
    assert plain.policy_id() == other.policy_id()


def test_an_exported_log_says_nobody_who_is_told() -> None:
    """Its rules go along, its targets do not."""
    told = replace(Config(), alerts_to={"phone": AlertTarget(webhook=f"http://h/{SECRET}")})
    tree = harmless(told)
    assert SECRET not in str(tree)
    assert tree["alerts_to"] == {}
    assert [row["name"] for row in tree["alerts"]] == [rule.name for rule in DEFAULT_ALERTS]
