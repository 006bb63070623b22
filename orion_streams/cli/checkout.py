"""The git checkout of this installation: it holds the tests and the harnesses that break grids."""

from __future__ import annotations

from pathlib import Path

import orion_streams
from orion_streams.errors import ConfigError


def checkout(command: str) -> Path:
    """Return the checkout's folder. Raises ConfigError that names the command if there is none."""
    root = Path(orion_streams.__file__).resolve().parent.parent
    if not (root / "tests").is_dir() or not (root / "pyproject.toml").is_file():
        raise ConfigError(
            f"`orion {command}` works in a git checkout only, and this is installed without it: "
            f"run `./orion {command}` in one"
        )
    return root
