"""`orion log archive`: the log into files, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.eventlog.archive import segments
from orion_streams.replay.source import FileSource
from tests.cli.conftest import Orion
from tests.cli.run_cli import TOML, prepared


@pytest.fixture
def own(valkey_url: str, home: Path, prefix: str) -> str:
    """A grid of this test's own, with its ./streams.toml; its prefix."""
    prepared(valkey_url, prefix)
    (home / "streams.toml").write_text(TOML.format(prefix=prefix, url=valkey_url))
    return prefix


def test_the_log_goes_into_files_once(orion: Orion, own: str, home: Path) -> None:
    """The first run writes all events, a second one nothing; both exit 0 and say where the archive ends."""
    code, out, err = orion("log", "archive", "kept", "--json")
    first: Any = msgspec.json.decode(out)
    assert (code, err, first["files"], first["first"], first["missing"]) == (0, "", 1, 1, [])
    code, out, _ = orion("log", "archive", "kept", "--json")
    again: Any = msgspec.json.decode(out)
    assert (code, again["files"], again["archived_to"]) == (0, 0, first["last"])
    shown: Any = msgspec.json.decode(orion("log", "--from", "1", "-n", "100000", "--json")[1])
    assert len(shown) == sum(len(each.rows) for each in FileSource(home / "kept").read()) == first["last"]
    assert orion("log", "archive", "kept")[1] == f"nothing new: kept reaches position {first['last']}\n"
    assert orion("log", "archive", "other")[1] == f"positions 1 to {first['last']} in 1 file: other\n"


@pytest.mark.parametrize("option", [("--json",), ("-n", "0"), ("--from", "1")])
def test_options_before_the_word_are_refused(orion: Orion, own: str, option: tuple[str, ...]) -> None:
    """Options of `orion log` that would be ignored: exit 2, and where they belong."""
    code, out, err = orion("log", *option, "archive", "kept")
    assert (code, out) == (2, "")
    assert "its options go after `archive`" in err


def test_the_folder_of_another_log_is_refused(
    orion: Orion, own: str, home: Path, valkey_url: str, prefix: str
) -> None:
    """Another grid's archive is left as it is: exit 1, and what to do."""
    orion("log", "archive", "kept")
    held = [each.path.read_bytes() for each in segments(home / "kept")]
    prepared(valkey_url, f"{prefix}two:")
    (home / "streams.toml").write_text(TOML.format(prefix=f"{prefix}two:", url=valkey_url))
    code, out, err = orion("log", "archive", "kept")
    assert (code, out) == (1, "")
    assert "is the archive of another log" in err
    assert "Name another folder" in err
    assert [each.path.read_bytes() for each in segments(home / "kept")] == held


@pytest.mark.parametrize("in_the_way", [Path.touch, lambda path: (path / ".left.part").mkdir(parents=True)])
def test_a_folder_that_cannot_be_used_is_named(
    orion: Orion, own: str, home: Path, in_the_way: Callable[[Path], object]
) -> None:
    """A file in its place, or a folder of the name that a killed archiver leaves: exit 1, one line."""
    in_the_way(home / "kept")
    code, out, err = orion("log", "archive", "kept")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("orion: kept: cannot be used: ")
