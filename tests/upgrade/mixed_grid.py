"""A grid of processes of which some are of the release before this one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from orion_streams.demo.simulated_grid import SimulatedGrid
from orion_streams.runtime.supervisor import Child
from tests.upgrade.keep_wheel import WHEEL

OF_TODAY = "[gateway]"
"""The table that the older release does not know."""


def old_python(folder: Path) -> Path:
    """Make a venv with the older release and today's dependencies, and return its interpreter. Nothing is
    downloaded: its packages are this venv's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    packages = Path(where.stdout.strip())
    with ZipFile(WHEEL) as wheel:
        wheel.extractall(packages)
    shared = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "today.pth").write_text("\n".join(sorted(shared)))  # not its .pth files: no checkout
    return python


def command(old: Path) -> tuple[str, ...]:
    """The older release's `orion`: -P, as `-m` would find the package of the working directory first."""
    return (str(old), "-P", "-m", "orion_streams.cli")


class MixedGrid(SimulatedGrid):
    """`old`: the interpreter of the older release; `olds`: which roles it runs. Each release reads a
    streams.toml of its own, as the machines of a house do."""

    def __init__(self, old: Path, olds: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self._old, self._olds = old, olds

    @property
    def old_config(self) -> Path:
        """The streams.toml of the older release."""
        return self.folder / "older.toml"

    def write_old_config(self, revision: int = 1) -> None:
        """Write the streams.toml of the older release."""
        kept = [part for part in self._toml().split("\n\n") if not part.startswith(OF_TODAY)]
        text = "\n\n".join(kept).replace("revision = 1", f"revision = {revision}", 1)
        self.old_config.write_text(text, encoding="utf-8")

    def _role(self, name: str, *arguments: str, announces: bool = False) -> Child:
        if name in self._olds:
            return self.old_role(name, *arguments)
        return self.new_role(name, *arguments, announces=announces)

    def new_role(self, name: str, *arguments: str, announces: bool = False) -> Child:
        """A role of this release."""
        return super()._role(name, *arguments, announces=announces)

    def old_role(self, name: str, *arguments: str) -> Child:
        """A role of the older release."""
        self.write_old_config()
        argv = (*command(self._old), *arguments, "--config", str(self.old_config))
        env: Mapping[str, str] = {
            "TMPDIR": str(self.folder),
            "ORION_REDIS_URL": self.redis_url,
            "ORION_REDIS_PASSWORD": "",
            "PYTHONPATH": "",
        }
        return Child(name, argv, env=env, say=self._say, remark=self._remark)
