"""The command line, `orion`.

The processes of a grid (`orion router`, `orion agent`) are dispatched before the libraries of the terminal
are imported: a Raspberry Pi runs them all day, and they need no tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The exit code; see `errors.py`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(words)
    except KeyboardInterrupt:  # while something was still being imported
        return 130


def run(words: Sequence[str]) -> int:
    """Dispatch to the processes or to the commands."""
    if words and words[0] in ("router", "agent"):
        from orion_streams.cli.roles import main as run_role  # noqa: PLC0415 - only what is needed

        return run_role(words)
    from orion_streams.cli.app import main as run_command  # noqa: PLC0415 - the same

    return run_command(words)
