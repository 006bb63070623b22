"""`orion bundle`: a folder that installs without internet, filled wheel by wheel, by the real pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import pytest

from orion_streams.cli import bundle_command
from orion_streams.cli.bundle_command import HERE, Target
from orion_streams.errors import BackendError
from tests.cli.run_cli import run

TAG = f"cp{HERE.replace('.', '')}"
ARM = f"{TAG}-{TAG}-manylinux_2_28_aarch64"
PURE = "py3-none-any"


def make_wheel(
    folder: Path, name: str, tag: str = PURE, needs: tuple[str, ...] = (), more: str = ""
) -> Path:
    """A wheel with nothing in it but what pip asks for."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    told = "".join(f"Requires-Dist: {each}\n" for each in needs)
    texts = {
        f"{name}.py": f"{name} = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{more}{told}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{each},,\n" for each in (*texts, f"{info}/RECORD"))
    path = folder / f"{name}-1.0-{tag}.whl"
    with ZipFile(path, "w") as wheel:
        for each, text in {**texts, f"{info}/RECORD": record}.items():
            wheel.writestr(each, text)
    return path


class Index:
    """An index of three wheels, one for a Pi only, and the wheel that needs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "index", folder
        make_wheel(self.folder, "aaa", ARM, ("bbb",))
        make_wheel(self.folder, "bbb")
        make_wheel(self.folder, "ccc")
        self.own = make_wheel(
            folder,
            "orion_streams",
            needs=("aaa", "ccc; extra == 'embedded'"),
            more="Provides-Extra: embedded\n",
        )

    def bundle(self, *words: str, offline: bool = False) -> tuple[int, str, str]:
        """Run it, with this index alone, or with none."""
        links = {} if offline else {"PIP_FIND_LINKS": str(self.folder)}
        own = ("--wheel", str(self.own))
        env: Mapping[str, str] = {"PIP_FIND_LINKS": "", "PIP_NO_INDEX": "1", **links}
        return run(self.home, "bundle", str(self.home / "wheels"), *own, *words, **env)

    def files(self) -> set[str]:
        """What is in the folder."""
        return {path.name for path in (self.home / "wheels").iterdir()}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index of the test's own."""
    return Index(tmp_path)


def test_a_folder_is_filled_and_installs_without_an_index(index: Index) -> None:
    """With its sizes and the line that installs; only what is named is an extra."""
    code, out, err = index.bundle("--json")
    found = msgspec.json.decode(out, type=bundle_command.Bundle)
    assert (code, found.fetched, found.machine, found.python) == (0, 3, "aarch64", HERE)
    assert index.files() == {
        f"aaa-1.0-{ARM}.whl",
        "bbb-1.0-py3-none-any.whl",
        "ccc-1.0-py3-none-any.whl",
        index.own.name,
    }
    assert found.size == sum(item.size for item in found.wheels) > 0
    assert "1 of 3  aaa-1.0-" in err
    place = index.home / "wheels"
    assert found.install == (
        f"sudo python{HERE} -m venv /opt/orion/venv && sudo /opt/orion/venv/bin/pip install --no-index "
        f"--find-links {place} 'orion-streams[embedded]==1.0' && "
        f"sudo /opt/orion/venv/bin/orion install --from {place} --role agent"
    )
    words = found.install.partition("pip install ")[2].partition(" && ")[0].replace("'", "").split()
    pi = Target(HERE, "aarch64").options
    target = ["--target", str(index.home / "pi")]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *pi, *target, *words], check=False)
    assert done.returncode == 0
    assert (index.home / "pi" / "aaa.py").exists()


def test_an_interrupted_run_goes_on_and_a_whole_folder_needs_no_index(index: Index) -> None:
    """What is there is kept, what is damaged is fetched again, and nothing else is."""
    assert index.bundle()[0] == 0
    place = index.home / "wheels"
    (place / "bbb-1.0-py3-none-any.whl").unlink()
    damaged = place / "ccc-1.0-py3-none-any.whl"
    damaged.write_bytes(damaged.read_bytes()[:50])
    kept = (place / f"aaa-1.0-{ARM}.whl").stat().st_mtime_ns
    code, out, err = index.bundle("--json")
    assert (code, msgspec.json.decode(out)["fetched"]) == (0, 2)
    assert "ccc-1.0-py3-none-any.whl is not whole: fetched again" in err
    assert (place / f"aaa-1.0-{ARM}.whl").stat().st_mtime_ns == kept
    shutil.rmtree(index.folder)
    code, out, _ = index.bundle(offline=True)
    assert code == 0
    assert "4 wheels, " in out
    assert out.splitlines()[-1].strip().startswith(f"sudo python{HERE} -m venv /opt/orion/venv")


def test_what_cannot_be_fetched_is_named(index: Index) -> None:
    """Without an index one line says what is missing, and what was fetched stays."""
    assert index.bundle()[0] == 0
    (index.home / "wheels" / "bbb-1.0-py3-none-any.whl").unlink()
    code, out, err = index.bundle(offline=True)
    assert (code, out) == (69, "")
    assert "No matching distribution found for bbb" in err
    assert "what was fetched is kept: run it again" in err
    assert len(index.files()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--extra", "slow"), "--extra slow: expected one of embedded"),
        (("--wheel", "x.whl"), "--wheel: x.whl: expected a file orion_streams-VERSION-py3-none-any.whl"),
        (("--python", "3.9"), "--python: expected 3.11 or newer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(index: Index, words: tuple[str, ...], said: str) -> None:
    """Before anything is fetched."""
    code, _, err = index.bundle(*words)
    assert code in (2, 78)
    assert said in " ".join(err.split())


def test_another_version_of_this_program_leaves_the_folder(index: Index) -> None:
    """Else pip, which takes the newest, might take another than the one that was asked for."""
    old = index.home / "wheels" / "orion_streams-0.1-py3-none-any.whl"
    old.parent.mkdir()
    shutil.copy(index.own, old)
    assert index.bundle()[0] == 0
    assert not old.exists()


def test_faust_streaming_is_built_pure_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no wheel for a Pi: pip builds one without Cython, of the version that is wanted."""
    asked: list[Any] = []
    own = make_wheel(tmp_path, "orion_streams", needs=("faust-streaming==0.15.3", "faust-extras"))

    def pip(*words: str, **variables: str) -> None:
        asked.append((words, variables))
        (tmp_path / "faust_streaming-0.15.3-py3-none-any.whl").touch()

    monkeypatch.setattr(bundle_command, "pip", pip)
    for _ in range(2):
        bundle_command.build_faust(tmp_path, own)
    [(words, variables)] = asked
    assert words[-1] == "faust-streaming==0.15.3"
    assert "--no-binary=faust-streaming" in words
    assert variables == {"NO_CYTHON": "1"}


@pytest.mark.parametrize("builds", [True, False])
def test_the_checkout_builds_its_own_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: bool
) -> None:
    """Where it cannot, without internet, the wheel in the folder serves; without any it is an error."""

    def pip(*words: str) -> None:
        if not builds:
            raise BackendError("no internet")
        make_wheel(Path(words[words.index("-w") + 1]), "orion_streams")

    monkeypatch.setattr(bundle_command, "pip", pip)
    name = "orion_streams-1.0-py3-none-any.whl"
    if not builds:
        fails(lambda: bundle_command.own_wheel(tmp_path, None))
        make_wheel(tmp_path, "orion_streams")
    assert bundle_command.own_wheel(tmp_path, None) == tmp_path / name


def fails(work: Callable[[], object]) -> None:
    """It must say that there is no internet."""
    with pytest.raises(BackendError, match="no internet"):
        work()
