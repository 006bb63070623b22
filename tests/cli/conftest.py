"""The command line inside a test, on a log that was prepared by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from orion_streams.cli import main
from tests.cli.run_cli import TOML, prepared

Orion = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, in which no grid runs and no configuration is set."""
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("ORION_REDIS_URL", "ORION_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def orion(home: Path, capsys: pytest.CaptureFixture[str]) -> Orion:
    """Run a command here: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def log_prefix(valkey_url: str) -> str:
    """The prefix of a log with something of everything; see `running.prepare`."""
    prepared(valkey_url, "reads:")
    return "reads:"


@pytest.fixture
def grid_toml(home: Path, valkey_url: str, log_prefix: str) -> Path:
    """./streams.toml of that log's grid."""
    path = home / "streams.toml"
    path.write_text(TOML.format(prefix=log_prefix, url=valkey_url))
    return path


@pytest.fixture
def read(orion: Orion, grid_toml: Path) -> Callable[..., object]:
    """The data of a read with --json: one line on stdout, exit code 0."""

    def run(*words: str) -> object:
        code, out, _ = orion(*words, "--json")
        assert code == 0
        assert out.endswith("\n")
        assert out.count("\n") == 1
        return msgspec.json.decode(out)

    return run
