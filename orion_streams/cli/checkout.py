"""The git checkout of an installation: it has the tests, and what breaks grids on purpose."""

from __future__ import annotations

from pathlib import Path

import orion_streams
from orion_streams.errors import ConfigError


def checkout(command: str) -> Path:
    """Return the checkout's folder. Without one, raise ConfigError, which names the command."""
    root = Path(orion_streams.__file__).resolve().parent.parent
    if not (root / "tests").is_dir() or not (root / "pyproject.toml").is_file():
        raise ConfigError(
            f"`orion {command}` works in a git checkout only, and this is installed without it: "
            f"run `./orion {command}` in one"
        )
    return root
