"""What a person and a script see of a log under other rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orion_streams.cli.options import CommonOptions
from orion_streams.cli.whatif_command import WhatIfPass, change_from, run
from orion_streams.cli.whatif_view import page
from orion_streams.cli.whatif_words import WORDS, because, told
from orion_streams.errors import EXIT_OK, ConfigError
from orion_streams.eventlog.jsonl import FORMAT, Header, pack
from orion_streams.model.verdict import TERMS
from orion_streams.protocol.commit_builder import GENESIS
from orion_streams.replay.compare_decisions import Changed
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
    monkeypatch.setattr("orion_streams.cli.whatif_view.MOST", 2)
    assert await shown(rows, tmp_path, as_json=False) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 100
    assert "policy.temp_max_mc were 71000, and policy.spill_ms were 0, and orion-worker took no" in text
    assert "more kinds of changes; --json has them all" in text
    head = next(n for n, line in enumerate(lines) if line.startswith("SIMULATED"))
    figures = [n for n, line in enumerate(lines) if line.startswith(("time to answer", "cold loads"))]
    assert figures and min(figures) > head
    told = next(n for n, line in enumerate(lines) if line.startswith("how far to trust it: as it was, the"))
    assert head < told < min(figures)
    assert "time above the mark" in text
    assert "because orion-worker would have been held back (e.g. it takes no requests)" in text


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


ROUTED, WAITS = Answer("routed", "a"), Answer("deferred", "a", "busy")
NOWHERE = Answer("deferred", "", "no_node")
OF_NODE: dict[str, Any] = {"kind": "backoff", "node": "a", "request": ""}
ORDER: dict[str, Any] = {"kind": "order", "node": "a", "request": ""}
HOT = Term("filter", "hot", "a", 76_000, 75_000)


def changed(recorded: Answer, would: Answer, term: Term = HOT, **values: Any) -> Changed:
    """A decision about brain/q that would be another one."""
    usual: dict[str, Any] = {"kind": "route", "position": 7, "server_ms": 1_800_000_000_000}
    usual |= {"request": "brain/q"} | values
    return Changed(recorded=recorded, would=would, term=term, **usual)


@pytest.mark.parametrize(
    ("recorded", "would", "said"),
    [
        (ROUTED, Answer("routed", "b"), "gone to b instead of to a"),
        (ROUTED, Answer("routed", "b", evicts=("m", "n")), "gone to b, unloading m, n, instead of to a"),
        (
            ROUTED,
            Answer("routed", "a", evicts=("m",)),
            "gone to a, unloading m, instead of unloading nothing",
        ),
        (ROUTED, WAITS, "waited for a instead of going there at once"),
        (ROUTED, Answer("deferred", "b", "busy"), "waited for b instead of going to a"),
        (ROUTED, Answer("deferred", "", "busy"), "waited for a turn instead of going to a"),
        (WAITS, ROUTED, "gone to a instead of waiting for it"),
        (WAITS, Answer("routed", "b"), "gone to b instead of waiting for a"),
        (
            Answer("deferred", "", "no_node"),
            WAITS,
            "waited for a instead of waiting with no node to take it",
        ),
        (ROUTED, Answer("failed", code="refused"), "ended as an error (refused) instead of going to a"),
        (Answer("failed", code="refused"), ROUTED, "gone to a instead of ending as an error (refused)"),
        (Answer("expired"), ROUTED, "gone to a instead of expiring"),
        (WAITS, Answer("expired"), "expired instead of waiting for a"),
    ],
)
def test_what_would_have_become_of_a_request(recorded: Answer, would: Answer, said: str) -> None:
    """Each pair of answers, in a sentence that names both."""
    [one] = told([changed(recorded, would)])
    why = "because a would have been held back (too hot: 76.0 °C, limit 75.0 °C)"
    assert one.sentence == f"1 request would have {said}, {why}"


@pytest.mark.parametrize(
    ("recorded", "would", "values", "said"),
    [
        (Answer("given_up", "b", "hot"), Answer("goes_on"), {"kind": "give_up", "node": "a"},
         "1 attempt would have gone on at a instead of being given up (too hot: 76.0 °C, limit 75.0 °C)"),
        (Answer("goes_on"), Answer("given_up", "b", "hot"), {"kind": "give_up", "node": "a"},
         "1 attempt would have been given up at a and sent to b (too hot: 76.0 °C, limit 75.0 °C)"),
        (Answer("in_service"), Answer("out", "a", "hot"), OF_NODE,
         "a would have been out when it was in service (too hot: 76.0 °C, limit 75.0 °C)"),
        (Answer("out", "a", "hot"), Answer("in_service"), OF_NODE,
         "a would have been in service when it was out (too hot: 76.0 °C, limit 75.0 °C)"),
        (Answer("out", "a", "ram"), Answer("out", "a", "hot"), OF_NODE,
         "a would have been out when it was out for another reason: memory too full (too hot"),
        (Answer("nothing"), Answer("load", "a", "m"), ORDER,
         "a would have been told to load m, because"),
        (Answer("unload", "a", "m"), Answer("nothing"), ORDER,
         "a would not have been told to unload m, because"),
    ],
)  # fmt: skip
def test_what_would_have_become_of_attempts_and_nodes(
    recorded: Answer, would: Answer, values: dict[str, Any], said: str
) -> None:
    """Each kind of decision that is not about where a request goes."""
    [one] = told([changed(recorded, would, **values)])
    assert one.sentence.startswith(said)


def test_like_decisions_are_one_sentence_with_the_first_of_them() -> None:
    """Counted, the most frequent first, with three examples; other reasons and nodes are told apart."""
    cooler = Term("filter", "ram", "a", 951, 900)
    decisions = [
        *(changed(ROUTED, WAITS, request=f"brain/q{n}", attempt=1 + n % 2) for n in range(5)),
        changed(ROUTED, Answer("routed", "b"), cooler),
        *(changed(ROUTED, Answer("routed", "b"), HOT, request=f"brain/p{n}") for n in range(2)),
    ]
    found = told(decisions)
    assert [each.times for each in found] == [5, 2, 1]
    assert found[0].sentence.startswith("5 requests would have waited for a instead of going there at once")
    assert "(e.g. too hot: 76.0 °C" in found[0].sentence and "e.g." not in found[2].sentence
    assert found[0].examples.startswith("brain/q0 at ") and found[0].examples.endswith(" and 2 more")
    assert "brain/q1 (attempt 2) at" in found[0].examples and "(position 7)" in found[0].examples
    out: list[Changed] = [
        changed(Answer("in_service"), Answer("out", "a", "hot"), HOT, **OF_NODE) for _ in range(2)
    ]
    [twice] = told(out)
    assert twice.sentence.startswith("a would 2 times have been out")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (HOT, "a would have been held back (too hot: 76.0 °C, limit 75.0 °C)"),
        (Term("filter", "role", "a"), "a would have been held back (it takes no requests)"),
        (Term("lifted", "ram", "a", 951, 900),
         "a would not have been held back (memory too full: 95.1 % RAM, limit 90.0 %"),
        (Term("filter", "critical", "a", 86_000, 85_000),
         "a would have been held back (the node passed the critical temperature: 86.0 °C, limit 85.0 °C)"),
        (Term("filter", "gone", "a", 3, 3),
         "a would have been held back (the node no longer has it: 3, limit 3)"),
        (Term("filter", "silent", "a", 6_000, 5_000),
         "a would have been held back (not heard from for 6.0 s, limit 5.0 s)"),
        (Term("filter", "breaker", "a", 2, 3),
         "a would have been held back (failures in a row: 2, limit 3)"),
        (Term("filter", "breaker", "a", 500, 15_000),
         "a would have been held back (breaker open after failures: 0.5 s of 15 s over)"),
        (Term("filter", "removed", "a"), "a would have been held back (removed by the rules)"),
        (Term("cost", "evict", "a", before=90, after=2_000),
         "a would have counted otherwise for what its load costs others (2.0 s, not 90 ms)"),
        (Term("slots", "brain/q", "a", before=1, after=0),
         "a would have had other work (0 free slots, not 1; brain/q would have taken one)"),
        (Term("order", "brain/q", "a"), "another request (brain/q) would have been served first"),
        (Term("order", "", "a"), "another request would have been served first"),
        (Term("rule", "attempts_exhausted", "", 1, 1),
         "the rules for its end would have been others (attempts_exhausted: 1 of 1)"),
        (Term("plan"), "other models would have been wanted in memory"),
    ],
)  # fmt: skip
def test_reasons_in_words(found: Term, said: str) -> None:
    """Each kind of term, with its units."""
    assert because(found).startswith(said)


@pytest.mark.parametrize("name", TERMS)
def test_each_term_of_a_cost_has_words(name: str) -> None:
    """None is told by the program's word."""
    assert WORDS[name] in because(Term("cost", name, "a", before=1, after=2))
    assert WORDS[name] != name


def test_the_options_make_the_change(tmp_path: Any) -> None:
    """Another file, settings on top, nodes left out; a file that is none is named."""
    file = tmp_path / "other.toml"
    file.write_text("[nodes.n1]\n[policy]\nspill_ms = 7\n")
    change = change_from(["policy.retry_ms=9"], ["n2"], str(file))
    assert change.file is not None and change.file.policy.spill_ms == 7
    assert (change.settings[0].path, change.without) == ("policy.retry_ms", ("n2",))
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        change_from([], [], str(tmp_path / "missing.toml"))
