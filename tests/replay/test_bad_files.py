"""Whatever stands in a recorded file: it is read as it was written, or one LogError says what is wrong."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.eventlog import jsonl
from orion_streams.eventlog.jsonl import deflated
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from tests.replay.bad import Lines, outcome, read, refusal, written

NESTED = b"[" * 100_000 + b"]" * 100_000
BOMB = zlib.compress(bytes(1_000_000))


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_a_file_that_was_cut_off_is_refused(whole: bytes, tmp_path: Path, name: str) -> None:
    """At whatever byte, also between two lines or two segments: the line where it ends is named."""
    path = written(tmp_path / name, whole)
    assert asyncio.run(read(path)).diverged == 0
    packed = path.read_bytes()
    ends = [at + 1 for at in range(len(packed)) if packed[at : at + 1] == b"\n"] if name[-1] == "l" else []
    for length in [*range(0, len(packed), 97), len(packed) - 1, *ends[:-1]]:
        path.write_bytes(packed[:length])
        assert re.search(r"line \d+: ", refusal(path))


def test_a_corrupt_compressed_file_is_refused_or_read_whole(whole: bytes, tmp_path: Path) -> None:
    """Each bit of a compressed file that matters is missed by somebody."""
    path = written(tmp_path / "log.jsonl.gz", whole)
    packed, intact = path.read_bytes(), asyncio.run(read(path))
    refused = 0
    for at in range(0, len(packed), 41):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x10]) + packed[at + 1 :])
        found = outcome(path)
        refused += isinstance(found, str)
        assert isinstance(found, str) or found == intact, at
    assert refused > 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "line 1: it is empty"),
        (b"\n", "line 1: cannot be read: the line is empty"),
        (b'{"some":"json"}\n', "line 1: a recording begins with a header of the log"),
        (b"[1,2]\n", "line 1: a recording begins with a header"),
        (b'"text"\n', "line 1: a recording begins with a header"),
        (b'{"event":"committed","number":1}\n', "line 1: a recording begins with a header"),
        (bytes(range(256)) * 40, "line 1: "),
        (b'{"event":"log.segment","prefix":"\xff"}\n', "line 1: a recording begins with a header"),
        (NESTED + b"\n", "line 1: a recording begins with a header"),
        (b'{"event":"log.segment","x":' + NESTED + b"}\n", "line 1: .*recursion"),
    ],
)
@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_another_file_is_refused(tmp_path: Path, name: str, text: bytes, said: str) -> None:
    """Nothing, foreign JSON, binary, another encoding, a tower of brackets: line 1 is not a header."""
    assert re.search(said, refusal(written(tmp_path / name, text)), re.S)


def test_a_name_is_refused_that_cannot_be_read(tmp_path: Path) -> None:
    """No such file, another suffix, a folder without an archive, one with a broken file, a long name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "log-000000000001-000000000009.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "log.json").write_text("{}")
    for name, said in (
        ("none.jsonl", "No such file"),
        ("log.json", "expected a file .jsonl or .jsonl.gz"),
        ("empty", "no log was archived there"),
        ("archive", "line 1: cannot be read: it is not compressed"),
        ("x" * 300 + ".jsonl", "cannot be read: File name too long"),
        ("empty/of/it.jsonl", "No such file"),
    ):
        assert said in refusal(tmp_path / name)


def header_with(**changes: Any) -> Callable[[Lines], Lines]:
    """Another first line."""
    return lambda lines: [msgspec.json.encode(msgspec.json.decode(lines[0]) | changes), *lines[1:]]


def numbered(field: str, digits: str) -> Callable[[Lines], Lines]:
    """A first line with a number that JSON allows and nobody means."""
    return lambda lines: [
        re.sub(rf'"{field}":\d+'.encode(), f'"{field}":{digits}'.encode(), lines[0]),
        *lines[1:],
    ]


def second_segment(lines: Lines) -> int:
    """The line where it begins."""
    return next(at for at in range(1, len(lines)) if lines[at].startswith(jsonl._HEADER))


def third_segment(lines: Lines) -> int:
    """The line where it begins."""
    middle = second_segment(lines)
    return middle + second_segment(lines[middle:])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (header_with(orion_log=2), "line 1: format 2, this program reads 1"),
        (header_with(first=0), "line 1: a segment from position 0"),
        (header_with(first=2), r"line \d+: after position \d+ comes a header"),
        (header_with(last=0), "line 1: a segment from position 1 to 0"),
        (header_with(hash="xy"), "line 1: a recording begins with a header"),
        (header_with(hash="00"), "line 1: nothing before position 1 has the hash 00"),
        (header_with(hash="11" * 16), "line 1: nothing before position 1 has the hash 11"),
        (header_with(last_hash="nonsense"), r"line \d+: (what stands at positions|it does not follow)"),
        (header_with(until=10**30), r"line \d+: it was cut off at position \d+, and goes to 10{30}"),
        (numbered("first", "9" * 30), "line 1: a segment from position 9{30}"),
        (numbered("first", "9" * 5_000), "line 1: a recording begins with a header"),
        (numbered("first", "1e400"), "line 1: a recording begins with a header"),
        (numbered("first", "-1"), "line 1: a segment from position -1"),
        (
            numbered("last", "9" * 18),
            r"line \d+: it comes after .* goes to 9{18}: something",
        ),
        (lambda lines: lines[: second_segment(lines)], "it was cut off at position"),
        (
            lambda lines: lines[: second_segment(lines)] + lines[third_segment(lines) :],
            r"line \d+: after position \d+ comes \d+",
        ),
        (lambda lines: [*lines, b"garbage"], r"line \d+: after position \d+ comes a header"),
        (lambda lines: [*lines, lines[-1]], r"line \d+: after position \d+ comes a header"),
        (lambda lines: [*lines, lines[0]], r"line \d+: after position \d+ comes 1"),
        (
            lambda lines: [lines[0], *lines],
            r"line 2: it comes after position 0, and the segment goes",
        ),
    ],
)
def test_a_header_that_is_wrong_is_refused(
    whole: bytes, tmp_path: Path, spoil: Callable[[Lines], Lines], said: str
) -> None:
    """Format, positions, hashes, and what follows what: the line of the header is named."""
    lines = spoil(whole.splitlines())
    path = written(tmp_path / "log.jsonl", b"\n".join([*lines, b""]))
    assert re.search(said, refusal(path))


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (b"no zlib", "the snapshot before position .* cannot be read"),
        (deflated(b"no grid"), "the snapshot before position .* cannot be read"),
        (deflated(b"\x81\xa1x" + b"\x91" * 50_000), "cannot be read: .*recursion"),
        (deflated(b"\xdd\xff\xff\xff\xff"), "cannot be read"),
        (deflated(encode_grid(Grid()))[:-3], "cannot be read: it was cut off, or something follows it"),
        (deflated(encode_grid(Grid())) + b"x", "cannot be read: it was cut off, or something follows it"),
        (deflated(encode_grid(Grid(position=3))), "is one of position 3"),
        (BOMB, "cannot be read: it inflates to more than 100000 bytes"),
    ],
)
@pytest.mark.parametrize("where", ["begins", "follows"])
def test_a_snapshot_that_is_none_is_refused(
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    snapshot: bytes,
    said: str,
    where: str,
) -> None:
    """Whatever stands where a state should be, as the beginning of a file or later: its line is named,
    and a bomb is not inflated."""
    monkeypatch.setattr(jsonl, "SNAPSHOT_MAX_BYTES", 100_000)
    lines = whole.splitlines()
    middle = second_segment(lines)
    spoilt = [*lines[:middle], *header_with(snapshot=snapshot)(lines[middle:])]
    kept = spoilt[middle:] if where == "begins" else spoilt
    path = written(tmp_path / "log.jsonl", b"\n".join([*kept, b""]))
    found = refusal(path)
    assert f"line {kept.index(spoilt[middle]) + 1}: " in found
    assert re.search(said, found)
