"""`orion check`: a streams.toml is judged, and nothing starts."""

from __future__ import annotations

from pathlib import Path

import msgspec

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
