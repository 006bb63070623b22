"""`orion check`: judge a streams.toml without starting anything."""

from __future__ import annotations

from msgspec import Struct

from orion_streams import config as configuration
from orion_streams.cli import secret_files
from orion_streams.cli.outcome import write_result
from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_OK


class Checked(Struct, frozen=True):
    """A file, and what is wrong with it, a sentence each."""

    file: str
    complaints: list[str]


def run(*, file: str | None, json: bool) -> int:
    """Print what is wrong, a line each; of a good file, with the files of secrets that it names. Raises
    ConfigError for a file that cannot be read or is no TOML."""
    path = configuration.chosen_file(file)
    text = configuration.read_text(path)
    complaints = configuration.complaints_of(configuration.tree_of(text, str(path)))
    found = Checked(str(path), complaints or secret_files.faults(configuration.parse(text)))
    lines = [f"{path}: {each}" for each in found.complaints] or [f"{path}: ok"]
    write_result(found, "\n".join(lines), json)
    return EXIT_BAD_CONFIG if found.complaints else EXIT_OK
