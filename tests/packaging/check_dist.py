"""What a wheel and an sdist of this checkout must hold, and how large a wheel may be.

python -m tests.packaging.check_dist FILE…    say what is wrong with them; exit 1 if anything is
"""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "orion_streams"
MAX_WHEEL_BYTES = 1_500_000
BESIDE = ("streams.toml", "README.md", "CHANGELOG.md", "pyproject.toml")
"""Files of an sdist beside the package and deploy/."""


def package_files() -> set[str]:
    """Every file of the package, through its links: modules, pages, the script, streams.toml, py.typed."""
    folders = [PACKAGE, PACKAGE / "agents", PACKAGE / "projections"]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {
        f"orion_streams/{path.relative_to(PACKAGE)}" for path in found if "__pycache__" not in path.parts
    }


def deploy_files() -> set[str]:
    """Every file of deploy/."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / "deploy").rglob("*") if path.is_file()}


def wheel_faults(names: Collection[str], size: int, metadata: str) -> Iterator[str]:
    """Say what a wheel lacks, has too many, or has twice."""
    found = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    yield from differences(found, package_files())
    if len(names) != len(set(names)):
        yield "it has files twice"
    if size > MAX_WHEEL_BYTES:
        yield f"it has {size:,} bytes, at most {MAX_WHEEL_BYTES:,}"
    for extra in ("embedded", "real", "fast"):
        if f"Provides-Extra: {extra}\n" not in metadata:
            yield f"it has no extra {extra}"


def sdist_faults(names: Collection[str]) -> Iterator[str]:
    """Say what an sdist lacks, has too many, or has twice; its own folder is left out of the names."""
    written_by_hatchling = {"PKG-INFO", ".gitignore"}
    wanted = package_files() | deploy_files() | set(BESIDE)
    yield from differences({*names} - written_by_hatchling, wanted)
    if len(names) != len(set(names)):
        yield "it has files twice"


def differences(found: set[str], wanted: set[str]) -> Iterator[str]:
    """Say which names are missing and which are too many."""
    for what, names in (("lacks", wanted - found), ("should not have", found - wanted)):
        for name in sorted(names)[:10]:
            yield f"it {what} {name}"


def faults(path: Path) -> list[str]:
    """Say what is wrong with a wheel or an sdist."""
    if path.suffix == ".whl":
        with ZipFile(path) as wheel:
            names = wheel.namelist()
            [told] = [name for name in names if name.endswith(".dist-info/METADATA")]
            return list(wheel_faults(names, path.stat().st_size, wheel.read(told).decode()))
    with tarfile.open(path) as sdist:
        return list(sdist_faults([name.partition("/")[2] for name in sdist.getnames()]))


def main(paths: list[str]) -> int:
    """Check files."""
    said = [f"{path}: {fault}\n" for path in paths for fault in faults(Path(path))]
    sys.stdout.write("".join(said))
    return 1 if said or not paths else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
