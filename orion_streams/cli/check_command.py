"""`orion check`: judge a streams.toml without starting anything."""

from __future__ import annotations

from msgspec import Struct

from orion_streams import config as configuration
from orion_streams.cli.outcome import write_result
from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_OK


class Checked(Struct, frozen=True):
    """A file, and what is wrong with it, a sentence each."""

    file: str
    complaints: list[str]


def run(*, file: str | None, json: bool) -> int:
    """Print what is wrong, a line each. Raises ConfigError for a file that cannot be read or is no TOML."""
    path = configuration.chosen_file(file)
    found = Checked(
        str(path),
        configuration.complaints_of(configuration.tree_of(configuration.read_text(path), str(path))),
    )
    lines = [f"{path}: {each}" for each in found.complaints] or [f"{path}: ok"]
    write_result(found, "\n".join(lines), json)
    return EXIT_BAD_CONFIG if found.complaints else EXIT_OK
