"""The installation that the services run from: /opt/orion/venv, outside of every home."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import orion_streams
from orion_streams.cli.install.apply import Target
from orion_streams.cli.install.plan import ORION, VENV
from orion_streams.config import Config
from orion_streams.errors import ConfigError

OWN, EXTRAS = "orion_streams-*.whl", ("embedded",)
WHAT = "--from PATH: expected a wheel, a checkout, or a folder with one wheel of ours (orion bundle)"
STAMP = f"{VENV}/.orion-installed"
PYTHONS = tuple(f"/usr/bin/python3{minor}" for minor in ("", ".14", ".13", ".12", ".11"))


def source_of(said: str | None) -> Path:
    """Return what is installed: what `--from` says, else this checkout. Raises ConfigError without either,
    and for what is neither a wheel, a checkout nor a folder with one wheel of ours."""
    if said is None:
        root = Path(orion_streams.__file__).resolve().parents[1]
        if not (root / "pyproject.toml").is_file():
            raise ConfigError(f"this program comes from no checkout: name what to install: {WHAT}")
        return root
    path = Path(said).resolve()
    if is_checkout(path) or (path.suffix == ".whl" and path.is_file()):
        return path
    if (count := len(list(path.glob(OWN)))) == 1:
        return path
    found = f"{count} wheels {OWN} are there" if count else "there is none"
    raise ConfigError(f"{WHAT.replace('PATH', said)}: {found}")


def is_checkout(source: Path) -> bool:
    """Whether a source is a folder to build from."""
    return (source / "pyproject.toml").is_file()


def wheel_of(source: Path) -> Path | None:
    """Return the wheel of ours in a source; None for a checkout."""
    if source.is_file():
        return source
    return None if is_checkout(source) else next(source.glob(OWN))


def stamp_of(source: Path, python: str, extras: Sequence[str] = EXTRAS) -> str:
    """Return what tells one installation from another: version, Python, a hash of the code, and extras."""
    digest = hashlib.blake2b(digest_size=12)
    for path in files_of(source):
        digest.update(path.name.encode() + path.read_bytes())
    wheel = wheel_of(source)
    release = wheel.name.split("-")[1] if wheel else version("orion-streams")
    return f"{release} {python} {digest.hexdigest()} {','.join(extras)}\n"


def files_of(source: Path) -> list[Path]:
    """List the files that make a source what it is."""
    if source.is_file():
        return [source]
    if is_checkout(source):
        folders = [source / name for name in ("orion_streams", "agents", "projections")]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return [source / "pyproject.toml", *sorted(each for each in found if each.suffix != ".pyc")]
    return sorted(source.glob("*.whl"))


def requirement(source: Path, extras: Sequence[str] = EXTRAS) -> list[str]:
    """Return what pip is told to install: from a folder of wheels without the index."""
    links = [] if source.is_file() or is_checkout(source) else ["--no-index", "--find-links", str(source)]
    return [*links, f"{wheel_of(source) or source}[{','.join(extras)}]"]


def extras_of(config: Config) -> tuple[str, ...]:
    """Return the extras that the services need: the embedded server, which `--role server` may run, and
    the event loop of streams.toml."""
    return (*EXTRAS, "fast") if config.event_loop == "uvloop" else EXTRAS


def is_ours() -> bool:
    """Whether this program runs from the services' own venv."""
    return Path(sys.prefix) == Path(VENV)


def install(target: Target, said: str | None, extras: Sequence[str] = EXTRAS) -> bool:
    """Make the venv and install into it, unless it is as it should be. Return whether that changed
    anything. The program that runs from the venv changes it only for `--from`, or for an extra that it
    lacks; whoever calls may `go_on` then. Under another root nothing is installed: a venv works in one
    place only."""
    if not target.is_machine:
        return False
    if said is None and is_ours():
        if "fast" in extras and find_spec("uvloop") is None:
            raise ConfigError(f"streams.toml wants uvloop, which {VENV} has not: {WHAT}")
        return False
    source, python = source_of(said), base_python()
    wanted, before = stamp_of(source, python, extras), target.read(STAMP)
    if before == wanted:
        return False
    if not target.dry:
        Path(STAMP).unlink(missing_ok=True)  # what breaks off is done anew
    is_other = before.split()[1:2] not in ([], [python])
    target.run(python, "-m", "venv", *(("--clear",) if is_other else ()), VENV)
    pip = ("env", "NO_CYTHON=1", f"{VENV}/bin/pip", "install", "--quiet", "--disable-pip-version-check")
    target.run(*pip, "--upgrade", *requirement(source, extras))
    if wheel := wheel_of(source):
        target.run(*pip, "--no-index", "--no-deps", "--force-reinstall", str(wheel))  # of the same version
    if not target.dry:
        Path(STAMP).write_text(wanted, encoding="utf-8")
    return True


def go_on(secret: str = "") -> None:
    """Go on as the program that was installed, if this is the one that it has replaced: what else is to be
    written is that release's. `secret`: what was read from stdin, which it reads there again."""
    if is_ours():
        sys.stdout.flush()
        if secret:
            reads, writes = os.pipe()
            os.write(writes, secret.encode())
            os.close(writes)
            os.dup2(reads, 0)
        os.execv(ORION, [ORION, *sys.argv[1:]])  # noqa: S606 - the words are this process's own


def base_python() -> str:
    """Return the Python that the venv is made with: ours, if the services can see it, else Debian's.
    Raises ConfigError without one."""
    for each in (Path(getattr(sys, "_base_executable", sys.executable)), *map(Path, PYTHONS)):
        if each.exists() and not is_in_a_home(each.resolve()) and is_usable(each):
            return str(each)
    raise ConfigError(
        "the services see no Python in somebody's home, and there is no other one from 3.11 on: "
        "sudo apt install python3 python3-venv"
    )


def is_in_a_home(path: Path) -> bool:
    """Whether ProtectHome hides a path."""
    return path.parts[:2] in (("/", "home"), ("/", "root")) or path.parts[:3] == ("/", "run", "user")


def is_usable(python: Path) -> bool:
    """Whether it is new enough, and can make a venv."""
    ask = "import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([python, "-c", ask], check=False, capture_output=True).returncode == 0  # noqa: S603


def site_packages(python: str) -> str:
    """Return where the venv has its packages."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)  # noqa: S603
    return f"{VENV}/lib/python{done.stdout.strip()}/site-packages"
