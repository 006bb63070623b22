"""streams.toml: what is wrong is refused with the file, the key and what was expected."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from orion_streams.config import PACKAGED_TOML, Config, load, parse
from orion_streams.errors import ConfigError
from orion_streams.model.toml_values import masked
from tests.config_reference import DOCUMENT, document, keys
from tests.conftest import STREAMS_TOML

NODE = '[nodes.pi]\nollama = "http://127.0.0.1:11434"\n'

WRONG = {
    "not toml": ("revision = ", "not valid TOML"),
    "wrong type": ('revision = "1"', 'revision = "1": expected a whole number, e.g. revision = 1'),
    "a fraction": ("revision = 1.5", "revision = 1.5: expected a whole number, e.g. revision = 1"),
    "too small": (
        "[policy]\nmax_open = 0",
        "policy.max_open = 0: expected a whole number of at least 1, e.g. max_open = 1000",
    ),
    "too large": (
        "[policy]\nram_max_permille = 1001",
        "policy.ram_max_permille = 1001: expected a whole number of at most 1000",
    ),
    "no choice": ('[redis]\nfsync = "never"', 'redis.fsync = "never": expected "everysec" or "always"'),
    "a bad name": (
        '[clients]\nnames = ["Brain"]',
        'clients.names[0] = ["Brain"]: expected small letters, digits, - and _',
    ),
    "a bad prefix": ('prefix = "a b"', 'prefix = "a b": expected up to 64 letters, digits'),
    "unknown at the top": (
        "speed = 1",
        "speed: no such key; known: alerts, alerts_file, alerts_to",
    ),
    "unknown in a table": ("[policy]\nspeed = 1", "policy.speed: no such key; "),
    "a node's value": (
        NODE + '[nodes.other]\nslots = "2"',
        'nodes.other.slots = "2": expected a whole number',
    ),
    "a node's list": (
        NODE + "[nodes.other]\ntiers = [1, 0]",
        "nodes.other.tiers[1] = [1,0]: expected a whole number of at least 1, e.g. tiers = [1]",
    ),
    "a node's unknown key": (
        NODE + "[nodes.other]\nspeed = 1",
        "nodes.other.speed: no such key; ",
    ),
    "a node that is no table": ("[nodes]\npi = 3", "nodes.pi = 3: expected a table, as [nodes.pi]"),
    "a node's name": (
        NODE + '[nodes."Pi 2"]\nslots = 1',
        'nodes.Pi 2 = "Pi 2": expected small letters, digits, - and _',
    ),
    "nodes that are no table": ("nodes = 3", "nodes = 3: expected a table, as [nodes]"),
    "temperature marks": (
        NODE + "[policy]\ntemp_max_mc = 70000\ntemp_return_mc = 70000",
        "policy.temp_return_mc = 70000: expected less than policy.temp_max_mc (70000)",
    ),
    "memory marks": (
        NODE + "[policy]\nram_return_permille = 950",
        "policy.ram_return_permille = 950: expected less than policy.ram_max_permille (900, the default)",
    ),
    "deadlines": (
        NODE + "[policy]\nmax_deadline_ms = 1000",
        "policy.max_deadline_ms = 1000: expected at least policy.default_deadline_ms (600000, the default)",
    ),
    "health too rare": (
        NODE + "[limits]\nhealth_ms = 3000",
        "limits.health_ms = 3000: expected at most half of policy.stale_ms (5000, the default)",
    ),
    "silent too soon": (
        NODE + "[policy]\nstale_ms = 1500",
        "policy.stale_ms = 1500: expected at least twice limits.health_ms (1000)",
    ),
    "a server without a scheme": (
        '[redis]\nurl = "orion-master:6379"',
        'redis.url = "orion-master:6379": expected a URL, e.g. "redis://orion-master:6379/0"',
    ),
    "a server's port": ('[redis]\nurl = "redis://h:99999"', "a port is a number from 1 to 65535"),
    "a server's address": ('[redis]\nurl = "redis://::1:6379"', "an IPv6 address stands in brackets"),
    "a server's database": ('[redis]\nurl = "redis://h/x"', "the number of a database"),
    "no service": (
        '[redis]\nurl = "redis+sentinel://h:1"',
        "redis+sentinel://HOST:26379,HOST:26379/SERVICE",
    ),
    "another scheme": ('[redis]\nurl = "http://h"', 'redis.url = "http://h": expected a URL, e.g.'),
    "a password in a bad url": (
        '[redis]\nurl = "redis://me:geheim@h:99999"',
        'redis.url = "redis://…@h:99999": expected a URL',
    ),
    "a password in a query": (
        '[redis]\nurl = "http://h/x?password=geheim"',
        'redis.url = "http://h/x?…": exp',
    ),
    "a password with a slash": (
        '[redis]\nurl = "redis://u:ge/heim@h:99999"',
        'redis.url = "redis://…@h:99999"',
    ),
    "a password with signs": (
        '[redis]\nurl = "redis://:g@h?e@h:99999"',
        'redis.url = "redis://…": expected',
    ),
    "a password alone": ('[redis]\nurl = "me:geheim@h"', 'redis.url = "…@h": expected a URL'),
    "nobody asks": (
        NODE + "[clients]\nnames = []",
        "clients: expected at least one client, e.g. [clients.brain]",
    ),
    "nobody answers": (
        "[nodes.pi]\ninference = false",
        "nodes: expected at least one node with inference = true",
    ),
    "the robot": (
        NODE + '[nodes.orion-edge]\nollama = "http://127.0.0.1:1"',
        "nodes.orion-edge: orion-edge is the robot and never runs inference; set inference = false",
    ),
    "the robot's Ollama": (
        '[nodes.pi]\nollama = "http://orion-edge:11434"',
        "nodes.pi: orion-edge is the robot and never runs inference",
    ),
    "a tier nobody has": (
        NODE + "[policy]\nspill_forbidden = [3]",
        "policy.spill_forbidden: no inference node has tier 3, nobody could answer it",
    ),
    "a place that is none": (
        NODE + '[models."llama3.2:3b"]\nresident_on = ["pj"]',
        "models.llama3.2:3b.resident_on: 'pj' is no inference node",
    ),
    "the critical mark": (
        NODE + "[policy]\ntemp_critical_mc = 75000",
        "policy.temp_critical_mc = 75000: expected more than policy.temp_max_mc (75000, the default)",
    ),
    "a model's unknown key": (
        NODE + '[models."llama3.2:3b"]\nspeed = 1',
        "models.llama3.2:3b.speed: no such key; ",
    ),
    "a model's name": (
        NODE + '[models."a b"]\nnum_ctx = 1',
        'models.a b = "a b": expected a model\'s name in Ollama',
    ),
    "where the gateway listens": (
        NODE + '[gateway]\nlisten = ":11435"',
        'gateway.listen = ":11435": expected HOST:PORT, e.g. "127.0.0.1:11435"',
    ),
    "no port of the gateway's": (
        NODE + '[gateway]\nlisten = "127.0.0.1"',
        'gateway.listen = "127.0.0.1": expected HOST:PORT',
    ),
    "a port to chance": (NODE + '[gateway]\nlisten = "127.0.0.1:0"', "a port is a number from 1 to 65535"),
    "an address without brackets": (NODE + '[gateway]\nlisten = "::1:11435"', "stands in brackets"),
    "the port of Ollama": (
        NODE + '[gateway]\nlisten = "127.0.0.1:11434"',
        'gateway.listen = "127.0.0.1:11434": nodes.pi has its Ollama there (http://127.0.0.1:11434)',
    ),
    "a page of any site": (NODE + '[gateway]\norigins = ["*"]', 'gateway.origins = ["*"]: expected pages'),
    "whose address": (
        NODE + '[gateway.addresses]\n"192.168.1.20" = "kitchen"',
        'gateway.addresses.192.168.1.20 = "kitchen": no such client; add [clients.kitchen]',
    ),
    "an address that is none": (
        NODE + '[gateway.addresses]\n"kitchen" = "brain"',
        'gateway.addresses.kitchen: expected an address or a network, e.g. "192.168.1.20"',
    ),
    "all addresses": (NODE + '[gateway.addresses]\n"0.0.0.0/0" = "brain"', "and not all there are"),
    "a gateway's unknown key": (NODE + "[gateway]\nport = 1", "gateway.port: no such key; "),
    "the breaker's times": (
        NODE + "[policy]\nbreaker_open_ms = 240001",
        "policy.breaker_open_ms = 240001: expected at most policy.breaker_open_max_ms (240000",
    ),
    "one model twice": (
        NODE + '[models.gemma3]\nnum_ctx = 1\n[models."gemma3:latest"]\nnum_ctx = 2',
        "models: the same model twice",
    ),
    "the margin": (
        NODE + "[policy]\nram_margin_permille = 900",
        "policy.ram_margin_permille = 900: expected less than policy.ram_max_permille (900, the default)",
    ),
    "whole degrees": (
        "[policy]\ntemp_max_mc = 70",
        "policy.temp_max_mc = 70: expected thousandths of a degree, 20000 to 120000; 70 is 0.07 °C: "
        "did you mean 70000?",
    ),
    "no degrees at all": (
        "[policy]\nderate_from_mc = 5",
        "policy.derate_from_mc = 5: expected thousandths of a degree, 20000 to 120000",
    ),
    "percent": (
        "[policy]\nram_max_permille = 90",
        "policy.ram_max_permille = 90: expected thousandths of all memory, 200 to 1000; 90 is 9 %: did you "
        "mean 900?",
    ),
    "the mark that was written": (
        NODE + "[policy]\ntemp_max_mc = 65000",
        "policy.temp_max_mc = 65000: expected more than policy.temp_return_mc (70000, the default)",
    ),
    "a slip of the pen": ("[policy]\nmax_opne = 1", "policy.max_opne: no such key; did you mean max_open?"),
    "no ollama": ('[nodes.pi]\nollama = ""', "nodes.pi.ollama: expected a URL, as inference is on"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    """The message is one line: file, key, expectation; the exit code is 78."""
    text, expected = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        parse(text, "house.toml")
    message = str(caught.value)
    assert message.startswith("house.toml: ")
    assert expected in message
    assert "\n" not in message
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("value", ["-1", "1d", "", "forever", "h", "1h-5m", " 5m", "9999999h", "٣s"])
def test_what_ollama_would_not_take_as_a_time_is_refused(value: str) -> None:
    """Before every request of the house fails for it."""
    with pytest.raises(ConfigError, match=r"nodes\.pi\.keep_alive = .*expected a duration .*30m"):
        parse(f'{NODE}keep_alive = "{value}"')


@pytest.mark.parametrize(
    "value", ['"30m"', '"1h30m"', '"-1s"', '"0"', '"1.5h"', '".5s"', '"100ms"', "-1", "0", "1.5"]
)
def test_what_ollama_takes_as_a_time_passes(value: str) -> None:
    """Go's durations, and numbers of seconds."""
    assert parse(f"{NODE}keep_alive = {value}").node("pi").keep_alive == tomllib.loads(f"x = {value}")["x"]


URLS = {
    "http://::1:11434": "an IPv6 address stands in brackets",
    "http://[::1": "an IPv6 address stands in brackets",
    "http://[::1]:port": "a port is a number",
    "http://127.0.0.1:port": "a port is a number",
    "http://pi:99999": "a port is a number",
    "http://pi:0": "a port is a number",
    "http://pi:": "expected a URL",
    "http://pi:-1": "a port is a number",
    "127.0.0.1:7712": "http:// is missing",
    "http://": "expected a URL",
    "http:/pi": "expected a URL",
    "http://a b": "expected a URL",
    "http://pi?x=1": "expected a URL",
    "ftp://pi": "expected a URL",
    "http://192.168.1.300:11434": "expected a URL",
    "http://[::1]x:11434": "expected a URL",
    "http://pi:11434/api": "it ends before /api",
    "http://pi/v1/": "it ends before /api",
    "http://xn--a:1": "expected a URL",
}


@pytest.mark.parametrize("url", URLS)
def test_what_is_no_url_is_refused(url: str) -> None:
    """In one line, with what is wrong and an example."""
    with pytest.raises(ConfigError) as caught:
        parse(f'[nodes.pi]\nollama = "{url}"', "house.toml")
    message = str(caught.value)
    assert message.startswith(
        f'house.toml: nodes.pi.ollama = "{masked(url)}": expected a URL, e.g. "http://127.0.0.1'
    )
    assert URLS[url] in message
    assert "\n" not in message


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    """It would stand in logs and in what doctor prints."""
    with pytest.raises(ConfigError, match="a user and a password stand in no URL") as caught:
        parse('[nodes.pi]\nollama = "http://u:secret@pi:11434"')
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1]:11434",
        "https://pi.local",
        "http://10.0.0.7:11434/",
        "http://pi_2/base",
        "http://[fe80::1%25eth0]:1",
    ],
)
def test_a_url_of_any_kind_passes(url: str) -> None:
    """Names, addresses of both kinds, a path in front of Ollama's."""
    assert parse(f'[nodes.pi]\nollama = "{url}"').node("pi").ollama == url


def test_an_unknown_node_is_named_with_the_known_ones() -> None:
    """Asking for a node that is not there says which are."""
    config = parse(STREAMS_TOML.read_text(encoding="utf-8"))
    with pytest.raises(ConfigError, match=r"nodes\.pi: .*orion-edge, orion-master, orion-worker"):
        config.node("pi")
    assert not config.node("orion-edge").inference


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is no text are refused by name."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: cannot be read"):
        load(tmp_path / "binary.toml")


def test_the_packages_file_holds_the_defaults() -> None:
    """Every key that streams.toml shows has its default there, but for the house's nodes."""
    packaged = load(PACKAGED_TOML)
    assert msgspec.structs.replace(packaged, nodes={}) == Config()
    assert sorted(packaged.nodes) == ["orion-edge", "orion-master", "orion-worker"]


def test_the_packages_file_shows_every_key() -> None:
    """No key exists that streams.toml does not show."""
    sections: dict[str, str] = {}
    for part in re.split(r"^(?=#? ?\[)", PACKAGED_TOML.read_text(encoding="utf-8"), flags=re.MULTILINE):
        kind = re.match(r"#? ?\[+(\w+)", part)
        sections[kind[1] if kind else ""] = sections.get(kind[1] if kind else "", "") + part
    for table, field in keys():
        name = re.sub(r"\W.*", "", table.strip("["))
        shown = re.search(rf"^(# )?{field.encode_name} = ", sections[name], re.MULTILINE)
        assert shown, f"{table} {field.encode_name} is not in streams.toml"


def test_the_reference_names_every_key() -> None:
    """docs/CONFIGURATION.md is what the structs say; a key more would show."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == document()
    names = [f"| `{field.encode_name}` |" for _, field in keys()]
    assert len(names) > 90
    assert all(each in text for each in names)


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path goes before $ORION_CONFIG, that before ./streams.toml, that before the package's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORION_CONFIG", raising=False)
    monkeypatch.delenv("ORION_REDIS_URL", raising=False)
    for revision, name in ((2, "streams.toml"), (3, "env.toml"), (4, "flag.toml")):
        (tmp_path / name).write_text(f"revision = {revision}\n{NODE}", encoding="utf-8")
    assert load().revision == 2
    monkeypatch.setenv("ORION_CONFIG", "env.toml")
    assert load().revision == 3
    assert load("flag.toml").revision == 4
    monkeypatch.delenv("ORION_CONFIG")
    (tmp_path / "streams.toml").unlink()
    assert load().revision == 1


def test_the_url_may_come_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag goes before $ORION_REDIS_URL, that before the file."""
    monkeypatch.delenv("ORION_REDIS_URL", raising=False)
    assert load(PACKAGED_TOML).redis.url == ""
    monkeypatch.setenv("ORION_REDIS_URL", "redis://env:1/0")
    assert load(PACKAGED_TOML).redis.url == "redis://env:1/0"
    assert load(PACKAGED_TOML, "redis://flag:1/0").redis.url == "redis://flag:1/0"


def test_a_policys_id_names_its_content() -> None:
    """The same rules have the same id; any change of policy or of a node's rules has another."""
    one, same = parse(NODE), parse(NODE)
    assert one.policy_id() == same.policy_id()
    other = parse(NODE + "slots = 2")
    assert one.policy_id() != other.policy_id()
    one, same = (parse(NODE + f"[clients]\nnames = {names}") for names in (["a", "b"], ["b", "a"]))
    assert one.policy_id() == same.policy_id()
    third = parse(NODE + "[policy]\nspill_ms = 1")
    assert one.policy_id() != third.policy_id()


@pytest.mark.parametrize("value", ["22:00-07:00", "00:00-23:59", "12:30-12:31", ""])
def test_quiet_hours_are_two_times_of_day(value: str) -> None:
    """Across midnight, or not."""
    assert parse(f'{NODE}quiet = "{value}"').rules()[0].quiet == value


@pytest.mark.parametrize(
    "value",
    ["22:00-22:00", "22-7", "24:00-07:00", "22:00-07:60", "10pm-7am", "22:00 - 07:00", "٢٢:00-07:00"],
)
def test_other_quiet_hours_are_refused(value: str) -> None:
    """Equal times say neither always nor never."""
    with pytest.raises(ConfigError, match=r"nodes\.pi\.quiet = .*expected two different times of day"):
        parse(f'{NODE}quiet = "{value}"')
