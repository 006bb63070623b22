"""The wheel and the sdist hold what they should, and one version stands everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packaging import check_dist
from tests.packaging.check_dist import ROOT, faults, package_files, sdist_faults, wheel_faults

META = "Provides-Extra: embedded\nProvides-Extra: real\nProvides-Extra: fast\n"


def build(tree: Path, folder: Path, *targets: str) -> list[Path]:
    """Build there, by the back end that pip would fetch, and without internet."""
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    for target in targets:
        subprocess.run([*words, "-t", target], cwd=tree, check=True, capture_output=True)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel and an sdist of this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("dist"), "wheel", "sdist")


def test_wheel_and_sdist_hold_the_package_and_nothing_else(built: list[Path]) -> None:
    """Every module, page, script and default; deploy in the sdist; no test; at most 1.5 MB."""
    assert [path.suffix for path in built] == [".whl", ".gz"]
    assert [faults(path) for path in built] == [[], []]
    assert check_dist.main([str(path) for path in built]) == 0


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(built: list[Path], tmp_path: Path) -> None:
    """There are no links in an sdist that is unpacked elsewhere: the same names, the same bytes."""
    wheel, sdist = built
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    [tree] = tmp_path.iterdir()
    [again] = build(tree, tmp_path / "dist", "wheel")
    with ZipFile(wheel) as first, ZipFile(again) as second:
        kept = [name for name in first.namelist() if not name.endswith("/RECORD")]
        assert {*first.namelist()} == {*second.namelist()}
        assert [name for name in kept if first.read(name) != second.read(name)] == []


def test_the_check_sees_a_file_too_few_too_many_twice_and_a_large_wheel() -> None:
    """Negative controls, each with its sentence."""
    whole = sorted(package_files())
    assert list(wheel_faults(whole, 1, META)) == []
    page = "orion_streams/gateway/page/index.html"
    few = [name for name in whole if name != page]
    assert list(wheel_faults(few, 1, META)) == [f"it lacks {page}"]
    assert list(wheel_faults([*whole, "agents/x.py"], 1, META)) == ["it should not have agents/x.py"]
    assert list(wheel_faults([*whole, page], 1, META)) == ["it has files twice"]
    assert list(wheel_faults(whole, 1_500_001, META)) == ["it has 1,500,001 bytes, at most 1,500,000"]
    assert list(wheel_faults(whole, 1, META[:-1])) == ["it has no extra fast"]
    assert "it lacks deploy/README.md" in list(sdist_faults(whole))
    assert check_dist.main([]) == 1


def test_one_version_stands_everywhere() -> None:
    """pyproject.toml has the newest of CHANGELOG.md, and no tag is above it. A clone without tags has none
    to compare, and builds the same."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    listed = subprocess.run(
        ["git", "tag", "--list", "v*"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert all(numbers(tag) <= numbers(version) for tag in listed.stdout.split())
    here = ["git", "tag", "--points-at", "HEAD", "--list", "v*"]
    tags = subprocess.run(here, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert [tag for tag in tags if numbers(tag) != numbers(version)] == []


def test_numbers_are_compared_as_numbers() -> None:
    """v0.10 is above 0.9.1, and v0.2 is 0.2.0."""
    assert numbers("v0.10") > numbers("0.9.1")
    assert numbers("v0.2") == numbers("0.2.0")


def numbers(version: str) -> tuple[int, ...]:
    """A version or tag as numbers, three of them."""
    found = [int(each) for each in re.findall(r"\d+", version)]
    return tuple([*found, 0, 0][:3])
