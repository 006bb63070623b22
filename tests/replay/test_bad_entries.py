"""Whatever entries a recorded file has: it is read as they were written, or one LogError says why not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orion_streams.eventlog import jsonl
from orion_streams.eventlog.jsonl import is_head
from tests.replay.bad import Lines, outcome, read, refusal, written
from tests.replay.recorded import mended, one_segment, rows_in

NESTED = b"[" * 100_000 + b"]" * 100_000


def swapped(lines: Lines, one: int, other: int) -> Lines:
    """Two lines in each other's place."""
    lines[one], lines[other] = lines[other], lines[one]
    return lines


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[1:], r"line 2: position 1: a commit begins with its head"),
        (lambda rows: [*rows[:9], *rows[10:]], r"line \d+: what stands at positions \d+ to \d+ is not"),
        (lambda rows: [*rows[:9], rows[9], *rows[9:]], r"line 11: position 10: a commit of 3 inputs has 0"),
        (lambda rows: swapped(rows, 6, 9), r"line 8: position 7: a commit of 3 inputs has 0"),
        (lambda rows: swapped(rows, 3, 4), r"line \d+: what stands at positions \d+ to \d+ is not"),
    ],
)
def test_lines_in_another_order_are_refused(
    whole: bytes, tmp_path: Path, spoil: Callable[[Lines], Lines], said: str
) -> None:
    """One dropped, one twice, two swapped: the first commit after it is named."""
    lines = whole.splitlines()
    spoilt = [lines[0], *spoil(lines[1:])]
    text = b"\n".join([*spoilt, b""])
    assert re.search(said, refusal(written(tmp_path / "log.jsonl", text)))


def entry(**fields: Any) -> bytes:
    """An event by hand."""
    return msgspec.json.encode(fields)


NO_TIME = entry(event="replies.trimmed", client="brain", min_id="no-time")
ENORMOUS = entry(event="model.removed", node="orion-worker", model="m" * 2_000_000)


NO_EVENTS = (
    (entry(event="node.exploded", node="a"), "no event that this version of orion-streams knows"),
    (entry(node="a"), "not an event"),
    (entry(event="node.returned", node=7), "not an event"),
    (b'{"event":"node.returned","node":"\xff\xfe"}', "not an event"),
    (b'{"event":"node.returned","node":"\\ud800 "}', "not an event"),
    (b"\xff\xfe\x00", "not an event"),
    (b'{"event":"node.returned","node":"a","x":' + NESTED + b"}", "not an event: .*recursion"),
    (NO_TIME, "cannot be folded: ValueError"),
)
NO_HEADS = (
    (b'{"event":"committed","number":1}', "not an event"),
    (b'{"event":"committed","number":' + NESTED + b"}", "not an event"),
)


@pytest.mark.parametrize(
    ("place", "row", "said"),
    [
        *(("input", *each) for each in NO_EVENTS),
        *(("answer", *each) for each in (*NO_EVENTS, *NO_HEADS)),
    ],
)
def test_an_entry_that_is_none_is_refused(
    whole: bytes, tmp_path: Path, place: str, row: bytes, said: str
) -> None:
    """An unknown kind, another type, another encoding, or one that says what cannot be: its line and
    position are named, though the hashes were mended, among a commit's inputs and among its answers."""
    rows = rows_in(whole)
    began = [at for at, each in enumerate(rows) if is_head(each)][4]
    inputs: int = msgspec.json.decode(rows[began])["inputs"]
    at = began + inputs + (place == "answer")
    path = written(tmp_path / "log.jsonl", one_segment([*rows[:at], row]))
    found = refusal(path)
    assert re.search(said, found)
    assert f"line {at + 2}: " in found
    assert f"position {at + 1}" in found or is_head(row)


@pytest.mark.parametrize("inputs", [-1, 10_000])
def test_a_head_that_counts_wrongly_is_refused(whole: bytes, tmp_path: Path, inputs: int) -> None:
    """More inputs than there are, or fewer than none: the position of the head is named."""
    rows = rows_in(whole)
    at = [at for at, row in enumerate(rows) if is_head(row)][3]
    head: dict[str, Any] = msgspec.json.decode(rows[at])
    rows[at] = msgspec.json.encode(head | {"inputs": inputs})
    path = written(tmp_path / "log.jsonl", one_segment(mended(rows)))
    assert re.search(rf"line {at + 2}: position {at + 1}: a commit of {inputs} inputs", refusal(path))


def test_a_line_without_end_is_refused(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line above the limit is named before it is read whole, in plain and in compressed files."""
    rows = rows_in(whole)
    at = next(at for at, row in enumerate(rows) if b'"node.sampled"' in row)
    text = one_segment([*rows[:at], ENORMOUS])
    for name in ("log.jsonl", "log.jsonl.gz"):
        path = written(tmp_path / name, text)
        assert "is too long" not in refusal(path)  # a commit that says more inputs than it has
        with monkeypatch.context() as small:
            small.setattr(jsonl, "LINE_MAX_BYTES", 1_000_000)
            assert f"line {at + 2}: cannot be read: the line is too long" in refusal(path)


def test_a_commit_without_end_is_refused(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries for ever and no head among them: they are not all kept until the file ends."""
    monkeypatch.setattr("orion_streams.replay.verify.COMMIT_MAX_BYTES", 1_000_000)
    rows = rows_in(whole)
    path = written(tmp_path / "log.jsonl", one_segment([*rows, *[rows[-1]] * 40_000]))
    assert re.search(r"line \d+: a commit of more than 1000000 bytes", refusal(path))


spoiling = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@spoiling
@given(data=st.data())
def test_bytes_changed_by_chance_are_refused_or_mean_nothing(
    whole: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """Bytes replaced, put in or taken out, in a plain or a compressed file: refused, or the same result."""
    path = written(tmp_path / data.draw(st.sampled_from(["log.jsonl", "log.jsonl.gz"])), whole)
    spoilt = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        length = data.draw(st.integers(0, 4))
        spoilt[at : at + length] = data.draw(st.binary(max_size=4))
    path.write_bytes(spoilt)
    found = outcome(path)
    assert isinstance(found, str) or found == asyncio.run(read(written(path, whole)))


@spoiling
@given(data=st.data())
def test_lines_changed_by_chance_are_refused_or_mean_nothing(
    whole: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """Lines dropped, doubled and moved: LogError, or the same result."""
    lines = whole.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at, to = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["drop", "double", "move"])):
            case "drop" if len(lines) > 1:
                del lines[at]
            case "double":
                lines.insert(to, lines[at])
            case _:
                lines.insert(to, lines.pop(at))
    path = written(tmp_path / "log.jsonl", b"\n".join([*lines, b""]))
    found = outcome(path)
    assert isinstance(found, str) or found == asyncio.run(read(written(path, whole)))


ODD = st.sampled_from(
    [
        0,
        -1,
        1,
        10**9,
        10**12,
        2**63 - 1,
        2**64,
        10**30,
        "",
        "x",
        "a-b",
        "9-9-9",
        "²-1",
        None,
        True,
        [],
        ["x"],
    ]
)


@spoiling
@given(data=st.data())
def test_a_careful_forgers_log_crashes_nothing(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Values of events replaced, and the hashes mended: a result, diverged or not, or a LogError."""
    rows = rows_in(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(rows) - 1))
        event: dict[str, Any] = msgspec.json.decode(rows[at])
        name = data.draw(st.sampled_from(sorted(set(event) - {"event"})))
        rows[at] = msgspec.json.encode(event | {name: data.draw(ODD)})
    outcome(written(tmp_path / "log.jsonl", one_segment(mended(rows))))


# the controls: without the guard they are not found


def test_a_fold_without_its_guard_crashes(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that says what cannot be would end in another exception."""
    monkeypatch.setattr("orion_streams.eventlog.loader.SENSELESS", ())
    path = written(tmp_path / "log.jsonl", one_segment([*rows_in(whole), NO_TIME]))
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(read(path))


def test_a_changed_end_without_its_hash_is_believed(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last commit has nobody after it but the header's `last_hash`."""
    text = whole.rstrip()
    at = text.rindex(b'"age_ms":') if b'"age_ms":' in text else text.rindex(b'"total_ms":')
    path = written(tmp_path / "log.jsonl", text[:at] + text[at:].replace(b'_ms":', b'_ms":9', 1) + b"\n")
    assert "is not the log that was written" in refusal(path)
    monkeypatch.setattr(jsonl, "check_end", lambda *_: None)
    assert asyncio.run(read(path)).diverged == 0
