"""The shell blocks of a document, and what they say: pure.

A block is what stands indented by four, or in a fence for a shell. It is one of commands if its first word
is a program of PROGRAMS. What cannot be run by a test is tagged by a line before it, which no reader sees:

    <!-- only parsed: REASON -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from msgspec import Struct

PROGRAMS = ("orion", "curl", "git", "sudo", "redis-cli", "pip", "docker", "export")
SHELLS = ("```sh", "```bash", "```console")
TAG = re.compile(r"<!-- only parsed: (\S.*\S) -->")
BESIDE = " · "
"""Between commands that stand in one line."""


class Command(Struct, frozen=True):
    """A command of a document. `reason`: why it is only parsed; "" if it is run."""

    document: str
    line: int
    words: tuple[str, ...]
    reason: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is one of `orion`'s."""
        return self.words[0] == "orion"

    def __str__(self) -> str:
        """Return where it stands and what it is, for the name of a test."""
        return f"{self.document}:{self.line} {' '.join(self.words)}"


def commands_in(document: str, text: str) -> list[Command]:
    """Return the commands of all shell blocks. Raises ValueError that names the line of one that no shell
    could read."""
    found: list[Command] = []
    for first, reason, lines in blocks_in(text):
        program = lines[0].removeprefix("./").split(" ")[0]
        if program in PROGRAMS:
            for number, line in joined(first, lines):
                found += commands_of(document, number, line, reason)
    return found


def blocks_in(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the blocks of code: the number of the first line, the reason of its tag, the lines."""
    lines, number, tag = text.splitlines(), 0, ""
    before = ""
    while number < len(lines):
        line = lines[number]
        begin = number
        if line.startswith("```"):
            body = number + 1
            while (number := number + 1) < len(lines) and not lines[number].startswith("```"):
                pass
            number += 1
            if line.strip() in SHELLS and body < number - 1:
                yield body + 1, tag, lines[body : number - 1]
            tag = ""
        elif line.startswith("    ") and line.strip() and not before.strip():
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            yield begin + 1, tag, [each[4:] for each in lines[begin:number]]
            tag = ""
        else:
            if (tagged := TAG.fullmatch(line.strip())) is not None:
                tag = tagged[1]
            elif line.strip():
                tag = ""
            number += 1
        before = lines[number - 1]
        if TAG.fullmatch(before.strip()):
            before = ""


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
    for part in line.split(BESIDE):
        try:
            words = shlex.split(part, comments=True)
        except ValueError as error:
            raise ValueError(f"{document}:{number}: {error}: {part}") from error
        if words:
            yield Command(document, number, (words[0].removeprefix("./"), *words[1:]), reason)
