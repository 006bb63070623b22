"""What a person and a script see of a log under other rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orion_streams.cli.options import CommonOptions
from orion_streams.cli.whatif_command import WhatIfPass, change_from, run
from orion_streams.cli.whatif_view import answer, page, term
from orion_streams.errors import EXIT_OK, ConfigError
from orion_streams.eventlog.jsonl import FORMAT, Header, pack
from orion_streams.protocol.commit_builder import GENESIS
from orion_streams.replay.decision_answers import KINDS
from orion_streams.replay.explain_change import Answer, Term
from orion_streams.replay.rule_changes import change_of
from orion_streams.simulation.rerun.rerun_workload import WhatIfResult
from tests.replay.decided import Row, chunks, nothing, simulated

HOTTER = change_of(["policy.temp_max_mc=71000", "policy.spill_ms=0"], ["orion-worker"])


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """A log in which a mark was passed."""
    return simulated("load-heavy", "hot-afternoon", 90).rows


def answered(rows: list[Row], change: Any = HOTTER, simulate: bool = True) -> WhatIfResult:
    """Both questions, asked in one pass."""
    asking = WhatIfPass(nothing(), change, simulate)
    for stretch in chunks(rows, 500):
        asking.take(stretch)
    return asking.finish()


async def shown(rows: list[Row], folder: Path, as_json: bool) -> int:
    """As the command does it, of a file."""
    before = Header(orion_log=FORMAT, prefix="orion:", first=1, hash=GENESIS.hex())
    path = folder / "log.jsonl"
    path.write_bytes(pack(before, [raw for _, raw in rows])[1])
    settings = ["policy.temp_max_mc=71000", "policy.spill_ms=0"]
    return await run(
        file=str(path),
        settings=settings,
        without=["orion-worker"],
        policy=None,
        simulate=True,
        common=CommonOptions(as_json, None, None),
    )


async def test_the_screen_fits_and_says_what_is_simulated(
    rows: list[Row], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At most 100 columns; the change, the counts, what is left out, SIMULATED before its figures."""
    monkeypatch.setenv("COLUMNS", "200")
    assert await shown(rows, tmp_path, as_json=False) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 100
    assert "policy.temp_max_mc were 71000, and policy.spill_ms were 0, and orion-worker took no" in text
    assert "more; --json has them all" in text
    head = next(n for n, line in enumerate(lines) if line.startswith("SIMULATED"))
    figures = [n for n, line in enumerate(lines) if line.startswith(("time to answer", "cold loads"))]
    assert figures and min(figures) > head
    told = next(n for n, line in enumerate(lines) if line.startswith("how far to trust it: as it was, the"))
    assert head < told < min(figures)
    assert "time above the mark" in text
    assert "orion-worker: not a node that answers requests" in text


async def test_json_is_one_line_with_these_keys(
    rows: list[Row], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Every changed decision with all of its fields; what is simulated says so in its name."""
    assert await shown(rows, tmp_path, as_json=True) == EXIT_OK
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = msgspec.json.decode(out)
    outcome, again = found["what_if"], found["rerun"]
    assert set(outcome["asked"]) == set(outcome["changed"]) == set(KINDS.values())
    assert len(outcome["decisions"]) == sum(outcome["changed"].values()) > 30
    assert set(outcome["decisions"][0]) == {
        "kind", "position", "server_ms", "recorded", "would", "term", "request", "attempt", "node",
    }  # fmt: skip
    assert set(again) == {
        "requests", "open", "span_ms", "health_ms", "recorded", "simulated_as_it_was",
        "simulated_changed", "heat", "unmeasured",
    }  # fmt: skip
    assert again["simulated_changed"]["by_node"] == {"orion-master": 90}


def test_the_simulation_can_be_left_out(rows: list[Row]) -> None:
    """Then there is nothing simulated on the screen; the decisions are the same."""
    alone, both = answered(rows, simulate=False), answered(rows)
    assert alone.rerun is None and alone.what_if == both.what_if
    assert "SIMULATED" not in " ".join(str(each) for each in page(alone, HOTTER))


def test_nothing_changed_is_said(rows: list[Row]) -> None:
    """No table of decisions, and 0 of them."""
    nothing_else = change_of([])
    found = answered(rows, nothing_else, simulate=False)
    text = [str(each) for each in page(found, nothing_else)]
    assert "nothing changed" in text[0] and "0 of them decided otherwise" in text[1]
    assert len(text) < len(list(page(answered(rows, simulate=False), HOTTER)))


def test_what_could_not_be_fitted_or_measured_is_said(rows: list[Row]) -> None:
    """The simulator's usual temperatures and expected speeds are called so."""
    found = answered(rows)
    assert found.rerun is not None
    text = " ".join(str(each) for each in page(found, HOTTER))
    assert ("the simulator's usual ones" in text) == (not all(h.fitted for h in found.rerun.heat.values()))
    assert "never measured, so as routing expects: load of" in text
    measured = replace(found, rerun=replace(found.rerun, unmeasured=(), open=3))
    text = " ".join(str(each) for each in page(measured, HOTTER))
    assert "never measured" not in text and "3 requests have no end in the log" in text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Answer("routed", "a", evicts=("m", "n")), "a, unloads m, n"),
        (Answer("deferred", "a", "busy"), "waits for a"),
        (Answer("deferred", "", "busy"), "waits for its turn"),
        (Answer("deferred", "", "no_node"), "no node takes it"),
        (Answer("failed", code="refused"), "ends: refused"),
        (Answer("expired"), "expired"),
        (Answer("given_up", "b", "hot"), "given up: hot, to b"),
        (Answer("goes_on"), "goes on"),
        (Answer("load", "a", "m"), "loads m"),
        (Answer("out", "a", "hot ram"), "out: hot ram"),
        (Answer("in_service"), "in service"),
    ],
)
def test_answers_in_words(found: Answer, said: str) -> None:
    """Each kind of answer."""
    assert answer(found) == said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Term("filter", "hot", "a", 76_000, 75_000), "a: too hot: 76.0 °C, limit 75.0 °C"),
        (
            Term("lifted", "ram", "a", 951, 900),
            "a no longer held back: memory too full: 95.1 % RAM, limit 90.0 %",
        ),
        (Term("filter", "critical", "a", 86_000, 85_000), "a: critical: 86.0 °C, limit 85.0 °C"),
        (Term("filter", "gone", "a", 3, 3), "a: gone: 3, limit 3"),
        (Term("filter", "silent", "a", 6_000, 5_000), "a: not heard from for 6.0 s, limit 5.0 s"),
        (Term("filter", "breaker", "a", 2, 3), "a: failures in a row: 2, limit 3"),
        (Term("filter", "breaker", "a", 500, 15_000), "a: breaker open after failures: 0.5 s of 15 s over"),
        (Term("filter", "removed", "a"), "a: removed by the rules"),
        (Term("cost", "evict", "a", before=90, after=2_000), "others on a: 90 ms → 2.0 s"),
        (Term("slots", "brain/q", "a", before=1, after=0), "free slots on a: 1 → 0 (brain/q takes one)"),
        (Term("order", "", "a"), "another is served first"),
        (Term("rule", "attempts_exhausted", "", 1, 1), "attempts_exhausted: 1 of 1"),
        (Term("plan"), "what should be in memory"),
    ],
)
def test_terms_in_words(found: Term, said: str) -> None:
    """Each kind of term, with its units."""
    assert term(found).startswith(said)


def test_the_options_make_the_change(tmp_path: Any) -> None:
    """Another file, settings on top, nodes left out; a file that is none is named."""
    file = tmp_path / "other.toml"
    file.write_text("[nodes.n1]\n[policy]\nspill_ms = 7\n")
    change = change_from(["policy.retry_ms=9"], ["n2"], str(file))
    assert change.file is not None and change.file.policy.spill_ms == 7
    assert (change.settings[0].path, change.without) == ("policy.retry_ms", ("n2",))
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        change_from([], [], str(tmp_path / "missing.toml"))
