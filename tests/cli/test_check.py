"""`orion check`: a streams.toml is judged, and nothing starts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.cli.conftest import Orion

WRONG = """
colour = 1
[nodes.pi]
ollama = "127.0.0.1:7712"
keep_alive = "1d"
[policy]
temp_max_mc = 70
"""


def test_everything_that_is_wrong_is_said_at_once(orion: Orion, home: Path) -> None:
    """A line each, in the order of the file, with file, key, value and example; exit 78."""
    (home / "house.toml").write_text(WRONG)
    code, out, err = orion("check", "house.toml")
    assert (code, err) == (78, "")
    keys = ["colour", "nodes.pi.ollama", "nodes.pi.keep_alive", "policy.temp_max_mc"]
    assert [line.split(": ", 1)[1].split(" = ")[0].split(":")[0] for line in out.splitlines()] == keys
    assert all(line.startswith("house.toml: ") for line in out.splitlines())
    code, out, _ = orion("check", "house.toml", "--json")
    found = msgspec.json.decode(out)
    assert (code, found["file"], len(found["complaints"])) == (78, "house.toml", 4)


def test_a_good_file_is_ok(orion: Orion, home: Path) -> None:
    """The one that is given, the folder's own, or else the package's."""
    code, out, _ = orion("check")
    assert (code, out.endswith("orion_streams/streams.toml: ok\n")) == (0, True)
    (home / "streams.toml").write_text("[nodes.pi]\n")
    assert orion("check")[:2] == (0, "streams.toml: ok\n")
    code, out, _ = orion("check", "--json")
    assert (code, msgspec.json.decode(out)) == (0, {"file": "streams.toml", "complaints": []})


def test_contradictions_are_found_too(orion: Orion, home: Path) -> None:
    """Values that are good one by one."""
    (home / "streams.toml").write_text("[nodes.pi]\n[policy]\ntemp_max_mc = 65000\n[clients]\nnames = []\n")
    code, out, _ = orion("check")
    assert code == 78
    assert len(out.splitlines()) == 2
    assert "policy.temp_max_mc = 65000: expected more than policy.temp_return_mc (70000" in out


def test_what_is_no_toml_is_refused(orion: Orion, home: Path) -> None:
    """So is a file that is not there: one line on stderr, exit 78."""
    (home / "house.toml").write_text("revision =")
    for name, what in (("house.toml", "not valid TOML"), ("none.toml", "cannot be read")):
        code, out, err = orion("check", name)
        assert (code, out, err.count("\n")) == (78, "", 1)
        assert what in err


NAMES = """
[nodes.pi]
[redis]
url = "rediss://me@pi"
password_file = "held"
tls_key_file = "key"
[alerts_to.phone]
form = "ntfy"
webhook_file = "url"
token_file = "token"
"""
FILES = {"held": "s3cret", "key": "many\nlines\n", "url": "https://ntfy.sh/s3cret", "token": "s3cret"}


@pytest.mark.parametrize(
    ("name", "key", "mode", "text", "what"),
    [
        ("held", "redis.password_file", 0o600, None, "No such file or directory"),
        ("held", "redis.password_file", 0o640, "s3cret", "others can read held: chmod 600 held"),
        ("held", "redis.password_file", 0o600, "s3cret\ns3cret\n", "expected one line in held"),
        ("held", "redis.password_file", 0o600, "", "expected one line in held"),
        ("key", "redis.tls_key_file", 0o600, None, "No such file or directory"),
        ("key", "redis.tls_key_file", 0o644, "s3cret", "others can read key: chmod 600 key"),
        ("url", "alerts_to.phone.webhook_file", 0o604, "s3cret", "others can read url: chmod 600 url"),
        ("token", "alerts_to.phone.token_file", 0o600, None, "No such file or directory"),
    ],
)
def test_the_files_of_secrets_are_looked_at(
    orion: Orion, home: Path, name: str, key: str, mode: int, text: str | None, what: str
) -> None:
    """Whether they are there, closed to others, and one line; what is in them is not said."""
    (home / "streams.toml").write_text(NAMES)
    for each, held in FILES.items():
        (home / each).write_text(held)
        (home / each).chmod(0o600)
    (home / "key").chmod(0o640)  # a service's group may read it
    assert orion("check")[:2] == (0, "streams.toml: ok\n")
    (home / name).unlink()
    if text is not None:
        (home / name).write_text(text)
        (home / name).chmod(mode)
    code, out, err = orion("check")
    assert (code, err, out.count("\n")) == (78, "", 1)
    assert out.startswith(f"streams.toml: {key}: ") and what in out and "s3cret" not in out


def test_a_secret_of_the_environment_needs_no_file(
    orion: Orion, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it goes before the file."""
    (home / "streams.toml").write_text('[nodes.pi]\n[redis]\nurl = "redis://pi"\npassword_file = "none"\n')
    assert orion("check")[0] == 78
    monkeypatch.setenv("ORION_REDIS_PASSWORD", "s3cret")
    assert orion("check")[:2] == (0, "streams.toml: ok\n")
