"""streams.toml: what is wrong is refused with the file, the key and what was expected."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orion_streams.config import PACKAGED_TOML, Config, load, parse
from orion_streams.errors import ConfigError
from tests.conftest import STREAMS_TOML

NODE = '[nodes.pi]\nollama = "http://127.0.0.1:11434"\n'

WRONG = {
    "not toml": ("revision = ", "not valid TOML"),
    "wrong type": ('revision = "1"', "revision: Expected `int`, got `str`"),
    "a fraction": ("revision = 1.5", "revision: Expected `int`, got `float`"),
    "too small": ("[policy]\nmax_open = 0", "policy.max_open: Expected `int` >= 1"),
    "too large": ("[policy]\nram_max_permille = 1001", "policy.ram_max_permille: Expected `int` <= 1000"),
    "no choice": ('[redis]\nfsync = "never"', "redis.fsync: Invalid enum value 'never'"),
    "a bad name": ('[clients]\nnames = ["Brain"]', "clients.names[0]: Expected `str` matching regex"),
    "a bad prefix": ('prefix = "a b"', "prefix: Expected `str` matching regex"),
    "unknown at the top": ("speed = 1", "top level: Object contains unknown field `speed`"),
    "unknown in a table": ("[policy]\nspeed = 1", "policy: Object contains unknown field `speed`"),
    "a node's value": (
        NODE + '[nodes.other]\nslots = "2"',
        "nodes.other.slots: Expected `int`, got `str`",
    ),
    "a node's list": (NODE + "[nodes.other]\ntiers = [1, 0]", "nodes.other.tiers[1]: Expected `int` >= 1"),
    "a node's unknown key": (
        NODE + "[nodes.other]\nspeed = 1",
        "nodes.other: Object contains unknown field `speed`",
    ),
    "a node that is no table": ("[nodes]\npi = 3", "nodes.pi: Expected `object`, got `int`"),
    "a node's name": (NODE + '[nodes."Pi 2"]\nslots = 1', "nodes.Pi 2: Expected `str` matching regex"),
    "nodes that are no table": ("nodes = 3", "nodes: Expected `object`, got `int`"),
    "temperature marks": (
        NODE + "[policy]\ntemp_max_mc = 70000\ntemp_return_mc = 70000",
        "policy.temp_return_mc: expected less than policy.temp_max_mc",
    ),
    "memory marks": (
        NODE + "[policy]\nram_return_permille = 950",
        "policy.ram_return_permille: expected less than policy.ram_max_permille",
    ),
    "deadlines": (
        NODE + "[policy]\nmax_deadline_ms = 1000",
        "policy.default_deadline_ms: expected at most policy.max_deadline_ms",
    ),
    "health too rare": (
        NODE + "[limits]\nhealth_ms = 3000",
        "limits.health_ms: expected at most half of policy.stale_ms",
    ),
    "nobody asks": (NODE + "[clients]\nnames = []", "clients.names: expected at least one client"),
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
        "policy.temp_critical_mc: expected more than policy.temp_max_mc",
    ),
    "a model's unknown key": (
        NODE + '[models."llama3.2:3b"]\nspeed = 1',
        "models.llama3.2:3b: Object contains unknown field `speed`",
    ),
    "a model's name": (NODE + '[models."a b"]\nnum_ctx = 1', "models.a b: Expected `str` matching regex"),
    "the breaker's times": (
        NODE + "[policy]\nbreaker_open_ms = 240001",
        "policy.breaker_open_ms: expected at most policy.breaker_open_max_ms",
    ),
    "one model twice": (
        NODE + '[models.gemma3]\nnum_ctx = 1\n[models."gemma3:latest"]\nnum_ctx = 2',
        "models: the same model twice",
    ),
    "the margin": (
        NODE + "[policy]\nram_margin_permille = 900",
        "policy.ram_margin_permille: expected less than policy.ram_max_permille",
    ),
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
    """Every key that streams.toml shows has its default there, apart from the house's own nodes."""
    packaged = load(PACKAGED_TOML)
    assert msgspec.structs.replace(packaged, nodes={}) == Config()
    assert sorted(packaged.nodes) == ["orion-edge", "orion-master", "orion-worker"]


def test_the_packages_file_shows_every_key() -> None:
    """No key exists that streams.toml does not show."""
    text = PACKAGED_TOML.read_text(encoding="utf-8")
    defaults = msgspec.to_builtins(Config())
    for table in ("redis", "clients", "policy", "limits", "retention"):
        for key in defaults[table]:
            assert f"\n{key} = " in text, f"{table}.{key} is not in streams.toml"


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
    third = parse(NODE + "[policy]\nspill_ms = 1")
    assert one.policy_id() != third.policy_id()
