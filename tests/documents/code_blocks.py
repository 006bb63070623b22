"""The shell blocks of a document, and what they say: pure.

A block is what stands in a fence for a shell, or indented by four if its first word is a program of
PROGRAMS. What cannot be run by a test is tagged by a line before it, which no reader sees:

    <!-- only parsed: REASON -->
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

PROGRAMS = (
    "orion", "curl", "cp", "git", "sudo", "redis-cli", "pip", "docker", "export", "cd", "ssh", "scp", "tar",
    "systemctl", "journalctl", "ollama", "python3", "apt",
)  # fmt: skip
SHELLS = ("```sh", "```bash", "```console")
TAG = re.compile(r"<!-- only parsed: (\S.*\S) -->")
BETWEEN = ("&&", ";")
"""Between commands that stand in one line."""


class Command(Struct, frozen=True):
    """A command of a document. `reason`: why it is only parsed; "" if it is run."""

    document: str
    line: int
    words: tuple[str, ...]
    reason: str = ""

    @property
    def ours(self) -> tuple[str, ...]:
        """The words after `orion`, if it is one of orion's commands, as root or not."""
        words = self.words[1:] if self.words[0] == "sudo" else self.words
        return words[1:] if words[:1] == ("orion",) else ()

    def __str__(self) -> str:
        """Return where it stands and what it is, for the name of a test."""
        return f"{self.document}:{self.line} {' '.join(self.words)}"


def commands_in(document: str, text: str) -> list[Command]:
    """Return the commands of all shell blocks. Raises ValueError that names the line of one that no shell
    could read."""
    return [
        command
        for first, reason, lines in blocks_in(text)
        for number, line in joined(first, lines)
        for command in commands_of(document, number, line, reason)
    ]


def blocks_in(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the blocks of commands: the number of the first line, the reason of its tag, the lines."""
    lines, number, tag, before = text.splitlines(), 0, "", ""
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = end_of(lines, number + 1, lambda each: not each.startswith("```"))
            if line.strip() in SHELLS and end > number + 1:
                yield number + 2, tag, lines[number + 1 : end]
            number, tag, before = end + 1, "", ""
        elif line.startswith("    ") and line.strip() and not before:
            end = end_of(lines, number, lambda each: each.startswith("    ") or not each.strip())
            block = [each[4:] for each in lines[number:end]]
            if block[0].removeprefix("./").split(" ")[0] in PROGRAMS:
                yield number + 1, tag, block
            number, tag = end, ""
        else:
            tagged = TAG.fullmatch(line.strip())
            if line.strip():
                tag = tagged[1] if tagged is not None else ""
            number, before = number + 1, "" if tagged is not None else line.strip()


def end_of(lines: Sequence[str], begin: int, goes_on: Callable[[str], bool]) -> int:
    """Return the number of the first line from `begin` with which a block does not go on."""
    return next((n for n in range(begin, len(lines)) if not goes_on(lines[n])), len(lines))


def joined(first: int, lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines with those that end with a backslash joined to the next, each with its number."""
    number, whole = first, ""
    for at, line in enumerate(lines, start=first):
        number, whole = (at, line) if not whole else (number, whole + line)
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        yield number, whole
        whole = ""
    if whole:
        yield number, whole


def commands_of(document: str, number: int, line: str, reason: str) -> Iterator[Command]:
    """Yield the commands of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        found = [each.removeprefix("./") for each in lexer]
    except ValueError as error:
        raise ValueError(f"{document}:{number}: {error}: {line}") from error
    for is_between, words in itertools.groupby(found, BETWEEN.__contains__):
        if not is_between:
            yield Command(document, number, tuple(words), reason)
