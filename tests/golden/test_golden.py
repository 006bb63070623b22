"""The recorded incidents: every decision is the one that was made, and what is told of them is the same."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import msgspec
import pytest

from orion_streams.decider import decide
from orion_streams.eventlog.jsonl import Header
from orion_streams.model import event_codec
from tests.golden.incidents import INCIDENTS
from tests.golden.record import FOLDER, SUFFIX, comment_of, record, text_of, write_text
from tests.golden.showing import SHOWS, Events
from tests.golden.telling import Told, judged, telling

MAX_BYTES, MAX_LINES = 150_000, 150
NAMES = sorted(INCIDENTS)
Lines = list[bytes]


def path_of(name: str) -> Path:
    """An incident's recording."""
    return FOLDER / f"{name}{SUFFIX}"


@pytest.mark.parametrize("name", NAMES)
async def test_every_decision_is_the_one_that_was_made(name: str) -> None:
    """Nothing diverges, and all of it is judged."""
    told = await judged(path_of(name))
    assert (told.report.diverged, told.report.older) == (0, 0), told.report.first_divergence
    assert told.report.decisions >= 10
    assert told.report.snapshots == told.headers - 1


@pytest.mark.parametrize("question", decide.QUESTIONS, ids=lambda question: question.__name__)
async def test_every_question_is_missed(question: decide.Question, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: of a decider that no longer asks one of its questions, some recording says so."""
    rest = tuple(each for each in decide.QUESTIONS if each is not question)
    monkeypatch.setattr(decide, "QUESTIONS", rest)
    assert any([(await judged(path_of(name))).report.diverged for name in NAMES])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_is_the_text_byte_for_byte(name: str) -> None:
    """Decisions with their terms, ends, state and hashes are those of NAME.txt, below its comment."""
    text = text_of(path_of(name)).read_bytes()
    comment = comment_of(text.decode())
    assert text == f"{comment}\n{telling(path_of(name))}".encode(), "understood? see README.md"
    assert comment.startswith(f"# {INCIDENTS[name].about[:60]}")
    assert text.count(b"\n") <= MAX_LINES
    assert path_of(name).stat().st_size <= MAX_BYTES


def strays(folder: Path) -> list[str]:
    """Recordings and texts there that lack the other, or are no incident of ours."""
    recordings = {path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}")}
    texts = {path.name.removesuffix(".txt") for path in folder.glob("*.txt")}
    return sorted(recordings ^ texts | (recordings & texts) ^ set(NAMES))


def test_each_recording_has_its_text(tmp_path: Path) -> None:
    """No recording without text, no text without recording; each of the two is missed."""
    assert strays(FOLDER) == []
    for suffix in (SUFFIX, ".txt"):
        for name in NAMES:
            (tmp_path / f"{name}{SUFFIX}").touch()
            (tmp_path / f"{name}.txt").touch()
        (tmp_path / f"{NAMES[0]}{suffix}").unlink()
        (tmp_path / f"another{suffix}").touch()
        assert strays(tmp_path) == sorted(["another", NAMES[0]])


def test_recordings_have_states_to_verify() -> None:
    """Among them are ones in several segments, and one that begins with a state."""
    headers = {name: headers_in(lines_of(name)) for name in NAMES}
    assert sum(len(each) > 2 for each in headers.values()) >= 3
    assert sum(each[0].first > 1 for each in headers.values()) == 1
    assert all(each[0].until == each[-1].last for each in headers.values())


def lines_of(name: str) -> Lines:
    """The lines of a recording."""
    return gzip.decompress(path_of(name).read_bytes()).splitlines()


def headers_in(lines: Lines) -> list[Header]:
    """The headers among them."""
    begin = b'{"event":"log.segment"'
    return [msgspec.json.decode(line, type=Header) for line in lines if line.startswith(begin)]


def events_of(told: Told) -> Events:
    """What a recording holds."""
    return [event_codec.decode(raw) for _, raw in told.rows]


@pytest.mark.parametrize("name", NAMES)
async def test_a_recording_shows_its_incident(name: str) -> None:
    """What its name says is in it; and nothing else's."""
    SHOWS[name](events_of(await judged(path_of(name))))
    other = NAMES[NAMES.index(name) - 1]
    with pytest.raises((AssertionError, ValueError, StopIteration, KeyError)):
        SHOWS[name](events_of(await judged(path_of(other))))


async def test_grid_time_takes_no_hour() -> None:
    """While the clock jumped by four hours in all, grid time went on by seconds."""
    told = await judged(path_of("clock-jump"))
    assert told.end.grid.at_ms < 60_000


@pytest.mark.parametrize("name", NAMES)
def test_the_recorder_still_records(name: str, tmp_path: Path) -> None:
    """Recorded anew, elsewhere: it verifies, and shows its incident."""
    told = asyncio.run(judged(record(name, tmp_path)))
    assert told.report.diverged == 0
    SHOWS[name](events_of(told))


def test_a_text_can_be_told_anew(tmp_path: Path) -> None:
    """The text alone is written again: the comment stays."""
    name = NAMES[0]
    path = tmp_path / path_of(name).name
    path.write_bytes(path_of(name).read_bytes())
    write_text(path, "# mine\n")
    assert text_of(path).read_text(encoding="utf-8") == f"# mine\n\n{telling(path)}"
