"""Which grid a command means on a machine of the house: the one that its user started there is nearer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orion_streams import config as configuration
from orion_streams.cli.grid_discovery import Running, find, noted
from orion_streams.errors import ConfigError

HOUSE, HERE, NAMED = "redis://house:6379/0", "redis://127.0.0.1:7001/0", "redis://other:6379/0"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Running:
    """The machine of an installed house, on which somebody has started a grid to play with."""
    text = configuration.PACKAGED_TOML.read_text()
    house, own = tmp_path / "house.toml", tmp_path / "own.toml"
    house.write_text(text.replace('url = ""', f'url = "{HOUSE}"', 1))
    own.write_text(text.replace("revision = 1", "revision = 77", 1))
    monkeypatch.setattr(configuration, "INSTALLED_TOML", house)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Running(os.getpid(), HERE, str(own), simulated=True)


def test_a_grid_that_runs_here_is_nearer_than_the_house(simulated: Running) -> None:
    """With its own configuration; at its end the house is meant again."""
    with noted(simulated):
        found = find(None, None)
        assert (found.redis.url, found.revision) == (HERE, 77)
    assert find(None, None).redis.url == HOUSE


def test_what_is_named_is_meant(
    simulated: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a flag, a variable, or a file that is given or stands in the folder."""
    house = str(tmp_path / "house.toml")
    with noted(simulated):
        assert find(NAMED, None).redis.url == NAMED
        assert find(None, house).redis.url == HOUSE
        with monkeypatch.context() as patched:
            patched.setenv("ORION_REDIS_URL", NAMED)
            assert find(None, None).redis.url == NAMED
        (tmp_path / "streams.toml").write_text(Path(house).read_text())
        assert find(None, None).redis.url == HOUSE


def test_on_an_invited_machine_it_is_said_where_a_person_asks(
    simulated: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has no password for people. Beside it what has one, or names another server, or plays."""
    house = tmp_path / "house.toml"
    house.write_text(house.read_text().replace("redis://house", "redis://orion-owner@house"))
    for clone in (False, True):
        if clone:
            (tmp_path / "streams.toml").symlink_to(configuration.PACKAGED_TOML)
        with pytest.raises(ConfigError, match="on the machine of that server") as refused:
            find(None, None)
        assert "redis://house:6379/0" in str(refused.value) and "orion-owner" in str(refused.value)
    with noted(simulated):
        assert find(None, None).redis.url == HERE
    assert find("redis://me@other:6379/0", None).redis.url == "redis://me@other:6379/0"
    monkeypatch.setenv("ORION_REDIS_PASSWORD", "secret")
    assert find(None, None).redis.url == "redis://orion-owner:secret@house:6379/0"
