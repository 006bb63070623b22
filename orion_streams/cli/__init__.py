"""The command line, `orion`.

The processes of a grid (`orion router`, `orion agent`, `orion gateway`, `orion alerts run`) are dispatched
before typer and rich are imported: they run all day on a Raspberry Pi and need neither."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process or command and return its exit code; `errors.py` lists them."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has not every letter
    try:
        if words[:2] == ["alerts", "run"]:
            words = [" ".join(words[:2]), *words[2:]]
        if words and words[0] in ("router", "agent", "gateway", "alerts run"):
            from orion_streams.cli.roles import main as run_role  # noqa: PLC0415 - without typer and rich

            return run_role(words)
        from orion_streams.cli.app import main as run_command  # noqa: PLC0415 - with them

        return run_command(words)
    except KeyboardInterrupt:  # while something was still being imported
        return 130
