"""`orion test`: the test suite of the checkout of this installation."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from orion_streams.cli.checkout import checkout
from orion_streams.errors import ConfigError

SPREAD = ("-n", str((os.cpu_count() or 1) + 2), "--dist", "loadfile", "--no-loadscope-reorder")
"""Many tests wait most of the time, for processes and servers. By their names the longest come first."""


def run(arguments: list[str]) -> int:
    """Replace this process with pytest. Raises ConfigError if there is no checkout or no pytest."""
    root = checkout("test")
    if find_spec("pytest") is None:
        raise ConfigError(f"pytest is not installed: {sys.executable} -m pip install -e '{root}[dev]'")
    os.chdir(root)
    spread = SPREAD if all(word.startswith("-") for word in arguments) else ()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *spread, *arguments])  # noqa: S606 - no shell wanted
