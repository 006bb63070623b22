"""What the services run: from which source, told apart how, and put there by the real pip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

import orion_streams
from orion_streams.cli.install import venv
from orion_streams.cli.install.apply import Target
from orion_streams.errors import ConfigError
from tests.install.houses import config
from tests.packaging.test_bundle import make_wheel

HERE = Target("", dry=False, say=lambda _: None)


def wheels(folder: Path, words: str) -> Path:
    """A folder of wheels, ours with these words in it, always of the same version."""
    make_wheel(folder, "ccc")
    more = f"Provides-Extra: embedded\nSummary: {words}\n"
    make_wheel(folder, "orion_streams", needs=("ccc; extra == 'embedded'",), more=more)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A venv that stands for that of the services."""
    made = tmp_path / "venv"
    monkeypatch.setattr(venv, "VENV", str(made))
    monkeypatch.setattr(venv, "ORION", str(made / "bin/orion"))
    monkeypatch.setattr(venv, "STAMP", str(made / ".orion-installed"))
    monkeypatch.setattr(venv, "base_python", lambda: getattr(sys, "_base_executable", sys.executable))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return made


def in_it(place: Path) -> str:
    """The words of ours that is installed there, with what it needs."""
    ask = "import ccc; from importlib.metadata import metadata; print(metadata('orion-streams')['Summary'])"
    done = subprocess.run([place / "bin/python", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.everything
def test_another_build_of_the_same_version_is_installed(place: Path, tmp_path: Path) -> None:
    """From a folder of wheels and from a wheel, without an index; the same once more is nothing to do."""
    bundle = wheels(tmp_path / "wheels", "first")
    assert venv.install(HERE, str(bundle))
    assert in_it(place) == "first"
    assert not venv.install(HERE, str(bundle))
    assert venv.install(HERE, str(wheels(bundle, "second")))
    assert in_it(place) == "second"
    [own] = wheels(tmp_path / "other", "third").glob("orion_streams-*.whl")
    assert venv.install(HERE, str(own))
    assert in_it(place) == "third"
    assert (place / ".orion-installed").read_text().startswith("1.0 ")


def test_the_program_of_the_venv_puts_another_there_and_goes_on_as_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked in vain; without --from it stays as it is."""
    place.mkdir()
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(sys, "prefix", str(place))
    monkeypatch.setattr(Target, "run", lambda _, *words: ran.append(words))
    monkeypatch.setattr(os, "execv", lambda path, words: ran.append((path, *words)))
    monkeypatch.setattr(sys, "argv", ["orion", "install"])
    assert not venv.install(HERE, None) and ran == []
    bundle = str(wheels(tmp_path / "wheels", "first"))
    assert venv.install(HERE, bundle)
    venv.go_on()
    assert ran[-1] == (str(place / "bin/orion"), str(place / "bin/orion"), "install")
    done = list(ran)
    assert not venv.install(HERE, bundle) and ran == done


def test_without_a_checkout_nothing_is_asked_for_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has that name in an index would be root here."""
    assert venv.source_of(None) == Path(orion_streams.__file__).resolve().parents[1]
    monkeypatch.setattr(
        orion_streams, "__file__", str(tmp_path / "site-packages/orion_streams/__init__.py")
    )
    with pytest.raises(ConfigError, match="--from PATH: expected a wheel"):
        venv.install(HERE, None)


def test_a_changed_source_is_another_installation(tmp_path: Path) -> None:
    """A wheel, a checkout and a folder of wheels are told apart by what is in them, and by the extras."""
    folder = wheels(tmp_path / "wheels", "one")
    [wheel] = folder.glob("orion_streams-*.whl")
    first = venv.stamp_of(wheel, "python3")
    assert venv.requirement(wheel) == [f"{wheel}[embedded]"]
    assert venv.requirement(folder) == ["--no-index", "--find-links", str(folder), f"{wheel}[embedded]"]
    assert venv.requirement(venv.source_of(None))[-1].endswith("[embedded]")
    assert venv.stamp_of(wheel, "python3", ("embedded", "fast")) != first
    wheels(folder, "two")
    assert venv.stamp_of(wheel, "python3") != first


def test_a_source_is_one_of_three_things(tmp_path: Path) -> None:
    """A folder with two wheels of ours does not say which."""
    folder = wheels(tmp_path / "wheels", "one")
    assert venv.source_of(str(folder)) == folder
    with pytest.raises(ConfigError, match="--from"):
        venv.source_of(str(tmp_path))
    (folder / "orion_streams-2.0-py3-none-any.whl").write_bytes(b"another")
    with pytest.raises(ConfigError, match="2 wheels"):
        venv.source_of(str(folder))


def test_the_event_loop_of_streams_toml_is_installed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each service would end with exit code 78; what cannot be had is said before."""
    assert venv.extras_of(config()) == ("embedded",)
    fast = venv.extras_of(structs.replace(config(), event_loop="uvloop"))
    assert fast == ("embedded", "fast")
    assert venv.requirement(venv.source_of(None), fast)[-1].endswith("[embedded,fast]")
    monkeypatch.setattr(sys, "prefix", str(place))
    monkeypatch.setattr(venv, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="uvloop"):
        venv.install(HERE, None, fast)
    assert not venv.install(HERE, None)
