"""The log of a process, on stderr."""

from __future__ import annotations

import logging
import sys

from orion_streams.errors import ConfigError


def log_to_stderr(level: str) -> None:
    """Log our own lines from `level` on, and warnings of libraries. Raise ConfigError for no such level."""
    try:
        logging.basicConfig(
            level=level.upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        )
    except ValueError as error:
        raise ConfigError(f"ORION_LOG: {error}: expected debug, info, warning or error") from error
    for noisy in ("faust", "mode", "orion_streams", "httpx", "httpcore", "asyncio"):  # ours are "orion"
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mode.timers").setLevel(logging.ERROR)  # timers are late on a busy Pi
