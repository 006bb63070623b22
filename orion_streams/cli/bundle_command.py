"""`orion bundle`: everything that a Pi without internet needs to install orion-streams, in one folder.

What is there is kept, wheel by wheel, so an interrupted run goes on where it ended, and a folder that is
complete needs no internet. pip finds, checks and fetches; of faust-streaming, which has no wheel for a Pi,
a pure one is built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from zipfile import BadZipFile, ZipFile

import msgspec
from msgspec import Struct

from orion_streams.cli.checkout import checkout
from orion_streams.cli.outcome import tell, write_result
from orion_streams.environment import child_environment
from orion_streams.errors import BackendError, ConfigError

OWN = "orion_streams"
BUILT = "faust-streaming"
"""Has no wheel for a Pi: built here, without Cython, it is pure."""
GLIBC = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
"""Of Debian 12 and newer, and older ones."""
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER_PYTHON = (
    "orion: what depends on the version of Python is chosen for this one, {here}: if the installation on "
    "{python} misses something, run this with {python}"
)
NO_PIP = "this Python has no pip, which finds the wheels: {python} -m ensurepip"
NO_WHEEL = (
    "this installation has no wheel of itself: name the one that it was installed from (--wheel FILE)"
)


class Item(Struct, frozen=True):
    """A wheel in the folder."""

    file: str
    size: int


class Bundle(Struct, frozen=True):
    """What is in the folder, and the line that installs from it. `fetched`: how many came just now."""

    folder: str
    python: str
    machine: str
    fetched: int
    size: int
    wheels: list[Item]
    install: str


class Target(Struct, frozen=True):
    """What the wheels are for."""

    python: str
    machine: str

    @property
    def options(self) -> list[str]:
        """Return pip's options."""
        tag = f"cp{self.python.replace('.', '')}"
        platforms = [f"--platform={glibc}_{self.machine}" for glibc in GLIBC]
        abis = [f"--abi={abi}" for abi in (tag, "abi3", "none")]
        exact = ["--only-binary=:all:", f"--python-version={self.python}", "--implementation=cp"]
        return [*exact, *abis, *platforms]


def run(
    *, folder: str, python: str | None, machine: str, extras: list[str], wheel: str | None, as_json: bool
) -> int:
    """Fill the folder and say what it holds. Raises BackendError where something cannot be fetched,
    ConfigError."""
    if find_spec("pip") is None:
        raise ConfigError(NO_PIP.format(python=sys.executable))
    target = Target(python or HERE, machine)
    if target.python != HERE:
        tell(OTHER_PYTHON.format(here=HERE, python=target.python))
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        bundle = fill(place, target, extras, wheel)
    except OSError as error:
        raise ConfigError(f"{error.filename or place}: {error.strerror or error}") from error
    write_result(bundle, text_of(bundle), as_json)
    return 0


def fill(place: Path, target: Target, extras: list[str], wheel: str | None) -> Bundle:
    """Fetch or build what is missing. Raises BackendError, ConfigError, OSError."""
    drop_damaged(place)
    own = own_wheel(place, wheel)
    wanted = f"{own}[{','.join(extras)}]" if extras else str(own)
    check_extras(own, extras)
    build_faust(place, own)
    missing = [each for each in resolve(place, target, wanted) if not (place / each.file).exists()]
    for number, each in enumerate(missing, start=1):
        pip("download", "-q", "--no-deps", *target.options, "-d", str(place), each.requirement)
        size = (place / each.file).stat().st_size
        tell(f"{number} of {len(missing)}  {each.file}  {in_mb(size)}")
    needed = resolve(place, target, wanted, offline=True)
    items = [Item(each.file, (place / each.file).stat().st_size) for each in needed]
    names = f"orion-streams[{','.join(extras)}]" if extras else "orion-streams"
    exact = f"{names}=={version_of(own)}"
    venv, there = "/opt/orion/venv", place.resolve()
    line = (
        f"sudo python{target.python} -m venv {venv} && sudo {venv}/bin/pip install --no-index "
        f"--find-links {there} '{exact}' && sudo {venv}/bin/orion install --from {there} --role agent"
    )
    total = sum(item.size for item in items)
    return Bundle(str(place), target.python, target.machine, len(missing), total, sorted_items(items), line)


def sorted_items(items: list[Item]) -> list[Item]:
    """Return the wheels by name."""
    return sorted(items, key=lambda item: item.file.lower())


def text_of(bundle: Bundle) -> str:
    """Describe the folder."""
    rows = [f"{in_mb(item.size):>9}  {item.file}" for item in bundle.wheels]
    what = f"{len(rows)} wheels, {in_mb(bundle.size)}, for Python {bundle.python} on {bundle.machine}"
    carry = "carry the folder to the Pi, and there, with its path on that machine:"
    return "\n".join([*rows, f"{bundle.folder}: {what}; {carry}", f"  {bundle.install}"])


def in_mb(size: int) -> str:
    """Format a size."""
    return f"{size / 1_000_000:.2f} MB"


def drop_damaged(place: Path) -> None:
    """Remove wheels that an interrupted run left unfinished: a wheel's table stands at its end."""
    for path in place.glob("*.whl"):
        try:
            with ZipFile(path):
                pass
        except BadZipFile:
            tell(f"orion: {path.name} is not whole: fetched again")
            path.unlink()


def own_wheel(place: Path, given: str | None) -> Path:
    """Put the wheel of this program into the folder and return its path; other versions of it go."""
    if given is not None:
        source = Path(given).expanduser()
        if not source.name.startswith(f"{OWN}-") or not source.is_file():
            raise ConfigError(f"--wheel: {given}: expected a file {OWN}-VERSION-py3-none-any.whl")
        own = place / source.name
        if not own.exists() or not own.samefile(source):
            shutil.copy(source, own)
    else:
        own = build_own(place)
    for other in place.glob(f"{OWN}-*.whl"):
        if other != own:
            other.unlink()
    return own


def build_own(place: Path) -> Path:
    """Build the wheel from the checkout. Without one, or without internet, the one in the folder serves."""
    held = sorted(place.glob(f"{OWN}-*.whl"))
    try:
        root = checkout("bundle")
    except ConfigError:
        if held:
            return held[-1]
        raise ConfigError(NO_WHEEL) from None
    isolated = ["--no-build-isolation"] if find_spec("hatchling") is not None else []
    with tempfile.TemporaryDirectory() as folder:
        try:
            pip("wheel", "-q", "--no-deps", *isolated, "-w", folder, str(root))
        except BackendError:
            if not held:
                raise
            tell(f"orion: {held[-1].name} could not be built anew: the one in the folder stays")
            return held[-1]
        [built] = Path(folder).glob("*.whl")
        return Path(shutil.copy(built, place / built.name))


def metadata_of(own: Path) -> Any:
    """Return what a wheel says of itself."""
    with ZipFile(own) as wheel:
        [name] = [each for each in wheel.namelist() if each.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(wheel.read(name).decode())


def version_of(own: Path) -> str:
    """Return a wheel's version."""
    return own.name.split("-")[1]


def check_extras(own: Path, extras: Sequence[str]) -> None:
    """Raise ConfigError for an extra that the wheel has not: pip would only warn."""
    known = metadata_of(own).get_all("Provides-Extra", [])
    for extra in extras:
        if extra not in known:
            raise ConfigError(f"--extra {extra}: expected one of {', '.join(known)}")


def build_faust(place: Path, own: Path) -> None:
    """Build a pure wheel of faust-streaming, as the wheel wants it, unless it is there."""
    said = [each.partition(";")[0] for each in metadata_of(own).get_all("Requires-Dist", [])]
    for requirement in (each for each in said if re.split(r"[=<>!~ ]", each)[0] == BUILT):
        exact = requirement.partition("==")[2].strip()
        if not list(place.glob(f"{BUILT.replace('-', '_')}-{exact}-py3-none-any.whl")):
            words = ("wheel", "-q", "--no-deps", f"--no-binary={BUILT}", "-w", str(place), requirement)
            pip(*words, NO_CYTHON="1")
            tell(f"built a pure wheel of {requirement}")


class Found(Struct, frozen=True):
    """A wheel that is needed: its file, and what pip calls it."""

    file: str
    requirement: str


class _Where(Struct):
    url: str


class _Metadata(Struct):
    name: str
    version: str


class _Row(Struct):
    download_info: _Where
    metadata: _Metadata


class _Report(Struct):
    install: list[_Row]


def resolve(place: Path, target: Target, wanted: str, offline: bool = False) -> list[Found]:
    """Return every wheel that is needed, by what is in the folder alone, else with the index. Raises
    BackendError that names what is missing."""
    if not offline:
        try:
            return resolve(place, target, wanted, offline=True)
        except BackendError:
            pass  # something is missing: ask the index
    where = ["--no-index"] if offline else []
    with tempfile.TemporaryDirectory() as nowhere:
        report = Path(nowhere) / "report.json"
        pip(
            "install", "-q", "--dry-run", "--ignore-installed", "--report", str(report),
            "--target", nowhere, "--find-links", str(place), *where, *target.options, wanted,
        )  # fmt: skip
        rows = msgspec.json.decode(report.read_bytes(), type=_Report).install
    return [
        Found(
            unquote(urlsplit(row.download_info.url).path.rpartition("/")[2]),
            f"{row.metadata.name}=={row.metadata.version}",
        )
        for row in rows
    ]


def pip(*words: str, **variables: str) -> None:
    """Run pip. Raises BackendError with its last error: it is the index, or the internet."""
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(  # noqa: S603 - no shell, and this Python's own pip
        argv, check=False, capture_output=True, text=True, env=child_environment(variables)
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        why = (said or done.stderr.splitlines() or ["?"])[-1].removeprefix("ERROR: ")
        raise BackendError(f"pip {words[0]}: {why}; what was fetched is kept: run it again")
