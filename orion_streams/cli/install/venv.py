"""The installation that the services run from: /opt/orion/venv, outside of every home."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import orion_streams
from orion_streams.cli.install.apply import Target
from orion_streams.cli.install.plan import VENV
from orion_streams.errors import ConfigError

STAMP = f"{VENV}/.orion-installed"
PYTHONS = tuple(f"/usr/bin/python3{minor}" for minor in ("", ".14", ".13", ".12", ".11"))


def source_of(said: str | None) -> Path | None:
    """Return what is installed: what `--from` says, else this checkout; None: by name, from the index.
    Raises ConfigError for what is neither a wheel, a checkout nor a folder of wheels."""
    if said is None:
        root = Path(orion_streams.__file__).resolve().parents[1]
        return root if (root / "pyproject.toml").is_file() else None
    path = Path(said).resolve()
    is_folder = path.is_dir() and ((path / "pyproject.toml").is_file() or any(path.glob("*.whl")))
    if (path.suffix == ".whl" and path.is_file()) or is_folder:
        return path
    raise ConfigError(f"--from {said}: expected a wheel, a checkout, or a folder of wheels (orion bundle)")


def stamp_of(source: Path | None, python: str) -> str:
    """Return what tells one installation from another: the version, the Python, and a hash of the code."""
    digest = hashlib.blake2b(digest_size=12)
    for path in files_of(source):
        digest.update(path.name.encode() + path.read_bytes())
    return f"{version('orion-streams')} {python} {digest.hexdigest()}\n"


def files_of(source: Path | None) -> list[Path]:
    """List the files that make a source what it is."""
    if source is None:
        return []
    if source.is_file():
        return [source]
    if (source / "pyproject.toml").is_file():
        folders = [source / name for name in ("orion_streams", "agents", "projections")]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return [source / "pyproject.toml", *sorted(each for each in found if each.suffix != ".pyc")]
    return sorted(source.glob("*.whl"))


def requirement(source: Path | None) -> list[str]:
    """Return what pip is told to install; with the embedded server, which `--role server` may run."""
    name = f"orion-streams[embedded]=={version('orion-streams')}"
    if source is None:
        return [name]
    if source.is_file() or (source / "pyproject.toml").is_file():
        return [f"{source}[embedded]"]
    return ["--no-index", "--find-links", str(source), name]


def install(target: Target, said: str | None) -> bool:
    """Make the venv and install into it, unless it is as it should be. Return whether that changed
    anything. Under another root nothing is installed: a venv works in one place only."""
    if not target.is_machine or Path(sys.prefix) == Path(VENV):
        return False
    source, python = source_of(said), base_python()
    wanted = stamp_of(source, python)
    before = target.read(STAMP)
    if before == wanted:
        return False
    if not target.dry:
        Path(STAMP).unlink(missing_ok=True)  # what breaks off is done anew
    is_other = before.split()[1:2] != [python]
    target.run(python, "-m", "venv", *(("--clear",) if is_other else ()), VENV)
    pip = (f"{VENV}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade")
    target.run("env", "NO_CYTHON=1", *pip, *requirement(source))
    if not target.dry:
        Path(STAMP).write_text(wanted, encoding="utf-8")
    return True


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
