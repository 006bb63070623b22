"""What was changed in a recording is found: decisions by their position, anything else by its line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.errors import LogError
from orion_streams.eventlog.jsonl import is_head
from orion_streams.protocol.commit_builder import chain
from orion_streams.replay.source import FileSource
from orion_streams.replay.verify import Report, verify
from tests.golden.scene import MASTER, WORKER
from tests.golden.test_golden import NAMES, Lines, headers_in, lines_of


def found(path: Path, lines: Sequence[bytes]) -> Report:
    """What verifying these lines finds."""
    path.write_bytes(b"\n".join([*lines, b""]))
    return asyncio.run(verify(FileSource(path)))


def forged(lines: Lines, change: Callable[[dict[str, Any]], bool]) -> tuple[Lines, int]:
    """The first segment with the first event changed of which `change` says so, and its position: all
    hashes are mended, as a careful forger would."""
    [first, *_] = headers_in(lines)
    rows, digest, at = list[bytes](), bytes.fromhex(first.hash), 0
    for number, line in enumerate(lines[1 : first.last - first.first + 2], first.first):
        event: dict[str, Any] = msgspec.json.decode(line)
        if is_head(line):
            event["hash"] = digest.hex()
        if not at and change(event):
            at = number
        rows.append(msgspec.json.encode(event))
        digest = chain(digest, rows[-1])
    assert at
    header = msgspec.structs.replace(first, last_hash=digest.hex(), until=0)
    return [msgspec.json.encode(header), *rows], at


def another_node(event: dict[str, Any]) -> bool:
    """A request sent elsewhere."""
    if event["event"] != "request.routed":
        return False
    event["node"] = MASTER if event["node"] == WORKER else WORKER
    return True


def another_cost(event: dict[str, Any]) -> bool:
    """A term of a cost, one ms more."""
    if event["event"] != "request.routed":
        return False
    event["verdicts"][-1]["cost_ms"] = event["verdicts"][-1].get("cost_ms", 0) + 1
    return True


@pytest.mark.parametrize("change", [another_node, another_cost])
@pytest.mark.parametrize("name", NAMES)
def test_a_forged_decision_diverges_where_it_stands(
    name: str, tmp_path: Path, change: Callable[[dict[str, Any]], bool]
) -> None:
    """Though every hash was mended, the position of the decision is named."""
    lines, at = forged(lines_of(name), change)
    report = found(tmp_path / "forged.jsonl", lines)
    assert report.diverged >= 1
    assert report.first_divergence is not None
    assert report.first_divergence.position == at


def test_an_honest_forger_changes_nothing(tmp_path: Path) -> None:
    """The control of the control: what is packed again without a change does not diverge."""
    lines, _ = forged(lines_of("thrash"), lambda event: event["event"] == "request.routed")
    assert (found(tmp_path / "same.jsonl", lines)).diverged == 0


def dropped(lines: Lines, at: int) -> Lines:
    """Without a line."""
    return [*lines[:at], *lines[at + 1 :]]


def swapped(lines: Lines, at: int) -> Lines:
    """Two lines in each other's place."""
    return [*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]]


def changed(lines: Lines, at: int) -> Lines:
    """A health entry that says something else."""
    other = lines[at].replace(b'"cpu_permille":100', b'"cpu_permille":101')
    return [*lines[:at], other, *lines[at + 1 :]]


@pytest.mark.parametrize("spoil", [dropped, swapped, changed])
@pytest.mark.parametrize("name", NAMES)
def test_a_line_that_was_tampered_with_is_named(
    name: str, tmp_path: Path, spoil: Callable[[Lines, int], Lines]
) -> None:
    """Dropped, swapped with the one before it, an input changed: the first commit after it, by line, and
    the positions since the one before, among which it is."""
    lines = lines_of(name)
    at = [at for at, line in enumerate(lines) if b'"event":"node.sampled"' in line][5]
    spoilt = spoil(lines, at)
    assert spoilt != lines
    with pytest.raises(LogError, match=r"spoilt\.jsonl: line \d+: .*positions? \d+") as caught:
        found(tmp_path / "spoilt.jsonl", spoilt)
    line = int(str(caught.value).partition("line ")[2].partition(":")[0])
    if among := re.search(r"positions (\d+) to (\d+) ", str(caught.value)):
        assert int(among[1]) <= headers_in(lines)[0].first + at - 1 <= int(among[2])
    heads = [number for number, each in enumerate(spoilt, 1) if is_head(each)]
    assert line in (heads[sum(each <= at for each in heads)], heads[sum(each <= at for each in heads) - 1])
