"""The code of an invitation, and what an invitation adds to a streams.toml: pure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from orion_streams import config as configuration
from orion_streams.cli.install.init_command import judged
from orion_streams.cli.install.invitation import (
    HEAD,
    Invitation,
    Ticket,
    accepted,
    decode,
    encode,
    ready_line,
    with_node,
)
from orion_streams.cli.install.starter import NodeWish
from orion_streams.errors import ConfigError
from tests.install.houses import TOML

TICKET = Ticket(
    "orion-worker",
    "redis://192.168.1.10:6379/0",
    "orion:invite:0011",
    "orion-invite-0011",
    "a password",
    1_800_000_000_000,
    "http://127.0.0.1:11434",
)
CODE = encode(TICKET)


@given(st.text(), st.text(), st.integers(0, 2**60))
def test_what_was_encoded_is_decoded(password: str, ca: str, until_ms: int) -> None:
    """Whatever stands in it; and it is one word for every shell."""
    ticket = Ticket("n", "redis://h", "k", "u", password, until_ms, "", ca)
    code = encode(ticket)
    assert decode(code) == decode(f"  {code[:20]}\n{code[20:]}\n") == ticket
    assert code.replace("-", "").replace("_", "").replace(".", "").isalnum()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50, len(CODE) - 8, len(CODE)])
def test_a_code_that_was_cut_is_said_to_be(count: int) -> None:
    """One sentence, without what is left of the secret; the whole one is good."""
    with pytest.raises(ConfigError, match="copy the whole line") as caught:
        decode(CODE[:-count])
    assert "\n" not in str(caught.value) and "a password" not in str(caught.value)
    assert decode(CODE) == TICKET


def test_a_code_with_one_other_letter_is_none() -> None:
    """At any place."""
    for at in range(len(HEAD), len(CODE) - 1):
        other = "A" if CODE[at] != "A" else "B"
        with pytest.raises(ConfigError, match="copy the whole line"):
            decode(CODE[:at] + other + CODE[at + 1 :])


@pytest.mark.parametrize("text", ["", "hello", "orion1.", "orion1.ä", "rm -rf /", "x" * 100_000, "\0"])
def test_what_is_no_code_is_said_to_be_none(text: str) -> None:
    """However odd it is."""
    with pytest.raises(ConfigError, match="copy the whole line"):
        decode(text)


def test_a_code_of_another_release_says_so() -> None:
    """It is whole, and means something else."""
    with pytest.raises(ConfigError, match="another release"):
        decode(CODE.replace("orion1.", "orion2."))


def test_a_new_node_raises_the_revision() -> None:
    """Which is how the router takes it; all else stays."""
    node = NodeWish("orion-extra", 4_096, True, "http://127.0.0.1:11434")
    before, after = configuration.parse(TOML), configuration.parse(with_node(TOML, node))
    assert (before.revision, after.revision) == (1, 2)
    assert after.node("orion-extra").ram_mb == 4_096 and after.node("orion-extra").tiers == (2,)
    assert {**before.nodes, "orion-extra": after.node("orion-extra")} == after.nodes
    assert after.redis == before.redis
    again = with_node(TOML.replace("revision = 1\n", ""), node)
    assert configuration.parse(again).revision == 2
    assert configuration.parse(with_node(again, NodeWish("b", 1, False, ""))).revision == 3


@pytest.mark.parametrize(
    "name", ['x"]\n[redis]\nurl = "redis://evil', "a b", "", "ä", "../passwords", "-x", "a\0"]
)
def test_an_odd_name_adds_nothing(name: str) -> None:
    """It is no table, no second key and no path: the file is refused as a whole."""
    text = with_node(TOML, NodeWish(name, 4_096, True, "http://127.0.0.1:11434"))
    with pytest.raises(ConfigError):
        configuration.parse(judged(text, configuration.INSTALLED_TOML))
    assert json.dumps("redis://orion-master:6379/0") in text


@pytest.mark.parametrize(
    ("models", "temp_mc", "sensor", "line"),
    [
        (2, 51_000, "cpu-thermal (thermal_zone0)", "w: ready, 2 models, sensor cpu-thermal"),
        (1, 51_000, "cpu-thermal (thermal_zone0)", "w: ready, 1 model, sensor cpu-thermal"),
        (None, None, "no thermal zone", "w: ready, no sensor (no thermal zone)"),
    ],
)
def test_a_node_that_joined_is_one_line(
    models: int | None, temp_mc: int | None, sensor: str, line: str
) -> None:
    """The same on both machines."""
    assert ready_line("w", "ready", models, temp_mc, sensor) == line


@pytest.mark.parametrize("node", ["../../../etc/cron.d/evil", "orion-other", "", "a/b"])
def test_what_waits_is_for_this_node_alone(node: str) -> None:
    """Whoever sits on the server names no file here: the node is the code's, and nothing else names one."""
    good = {"node": TICKET.node, "user": "../../../etc/cron.d/evil", "password": "p", "toml": TOML}
    assert accepted(json.dumps(good).encode(), TICKET) == Invitation(TICKET.node, "p", TOML)
    with pytest.raises(ConfigError, match="what waits at redis://"):
        accepted(json.dumps({**good, "node": node}).encode(), TICKET)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("url", "unix:///run/docker.sock", "rediss://orion-master:6379/0"),
        ("url", "http://h/0", "redis://[fe80::1]:6379/0"),
        ("url", "redis://", "redis://h"),
        ("url", "redis://h\x1b[2J/0", "redis+sentinel://a:26379,b:26379/my.house/0"),
        ("url", "redis://h\n/0", "redis://h/0"),
        ("url", "redis://me:secret@h/0", "redis://h:1/0"),
        ("url", "rediss://h/0?ssl_cert_reqs=none", "rediss://h/0"),
        ("url", "rediss://h/0?ssl_ca_certs=/etc/shadow", "rediss://h:6379/15"),
        ("ollama", "http://\x1b[2Jh", "http://127.0.0.1:11434"),
        ("ollama", "file:///etc/passwd", ""),
        ("user", "u\x1b[2J", "orion-invite-0011"),
        ("until_ms", 2**62, 2**60),
        ("until_ms", -1, 0),
    ],
)
def test_a_code_that_no_house_makes_is_refused(name: str, bad: object, good: object) -> None:
    """Though its sum is right: nothing of it is shown or connected to. Beside it what is taken."""
    assert decode(encode(structs.replace(TICKET, **{name: good})))
    with pytest.raises(ConfigError, match="have another one made") as caught:
        decode(encode(structs.replace(TICKET, **{name: bad})))
    assert str(caught.value).isprintable()
