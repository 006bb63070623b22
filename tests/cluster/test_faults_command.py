"""`orion simulate --faults`: its data, its words, its exit codes."""

from __future__ import annotations

import json

import pytest

from orion_streams.cli import main

RUN = ("simulate", "--faults", "--requests", "40", "--seed", "3")


def test_json_is_one_line_with_every_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and one JSON object on stdout with the counts and the faults by name."""
    assert main([*RUN, "--only", "lost_answer,kill_router", "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    report = json.loads(out)
    assert (report["requests"], report["answered"], report["runs"]) == (40, 40, 1)
    zeros = ("lost", "duplicate_replies", "duplicate_dispatches", "log_gaps", "diverged", "tail_repeats")
    assert [report[name] for name in zeros] == [0] * 6
    assert report["replies"] == {"done": 40}
    assert report["faults"].keys() <= {"lost_answer", "kill_router"}
    assert report["broken"] == []


def test_a_person_reads_that_it_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json: tables, the word SIMULATED, and that everything held; progress goes to stderr."""
    assert main([*RUN, "--only", "none"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("SIMULATED: 40 requests in 1 runs")
    assert "duplicate_replies" in out
    assert "every invariant held" in out
    assert "1 of 1 runs" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*RUN, "--only", "rain"), "no such name: rain"),
        (("simulate", "--only", "heat"), "--only goes with --faults"),
        ((*RUN, "--compare"), "--faults goes with"),
        ((*RUN, "--workload", "steady"), "--faults goes with"),
    ],
)
def test_wrong_words_are_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    """Exit 2 with what was expected, and nothing on stdout."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
