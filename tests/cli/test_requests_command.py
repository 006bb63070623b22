"""`orion requests`: what ended, with figures that are counted by hand here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from orion_streams.cli import requests_summary, requests_view
from orion_streams.cli.request_names import SHORT, shortest
from orion_streams.cli.requests_summary import Asked, Ended, Summary
from orion_streams.config import Config, parse
from orion_streams.model import events as ev
from orion_streams.model.state import client_of
from orion_streams.model.vocabulary import RequestKind, RequestState
from orion_streams.projections.ended_requests import EndedRequest
from tests.cli.conftest import Orion
from tests.cli.run_cli import with_store
from tests.cli.test_explain import TOML, prepare
from tests.conftest import ServerStore
from tests.replay.logs import MASTER, MODEL, WORKER, Log, accepted, completed, failed, routed, started
from tests.replay.recorded import one_segment

Data = Callable[..., Any]


def row(n: int, **values: Any) -> EndedRequest:
    """A request that ended as the n-th."""
    usual: dict[str, Any] = {
        "request": f"brain/q{n}", "kind": RequestKind.GENERATE, "model": "m", "outcome": RequestState.DONE,
        "position": n, "ended_ms": n, "age_ms": 1_000, "waited_ms": 0, "promised_ms": 1_000, "took_ms": 500,
    }  # fmt: skip
    return EndedRequest(**{**usual, **values})


def summed(asked: Asked, *rows: EndedRequest) -> Ended:
    """What is shown of them."""
    summary = Summary(asked)
    for each in rows:
        summary.take(each)
    return summary.ended(0, 1, 9, 9)


MIXED = [
    row(1, request="brain/a", outcome=RequestState.ERROR, code="model_missing", model="x", age_ms=50),
    row(2, request="chat/b", age_ms=9_000),
    row(3, request="brain/c", outcome=RequestState.EXPIRED, age_ms=60_000),
    row(4, request="chat/d", outcome=RequestState.CANCELLED, model="x"),
    row(5, request="brain/e", took_ms=9_000, age_ms=8_000),
]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(), "edcba"),
        (Asked(slowest=True), "cbeda"),
        (Asked(slowest=True, limit=2), "cb"),
        (Asked(limit=2), "ed"),
        (Asked(limit=0), ""),
        (Asked(limit=0, slowest=True), ""),
        (Asked(failed=True), "ca"),
        (Asked(clients=frozenset({"chat"})), "db"),
        (Asked(models=frozenset({"x"}), clients=frozenset({"brain", "chat"})), "da"),
        (Asked(models=frozenset({"y"})), ""),
    ],
)
def test_the_rows_that_are_asked_for_come_in_their_order(asked: Asked, expected: str) -> None:
    """The newest or the slowest first, filtered, and no more than the limit; the figures are of all."""
    found = summed(asked, *MIXED)
    assert "".join(each.id for each in found.requests) == expected
    assert sum(found.outcomes.values()) == len([each for each in MIXED if asked.has(each)])


def test_the_figures_are_of_all_rows_and_not_of_the_shown_ones() -> None:
    """Percentiles and promises, however few are shown; without an answer there is no promise."""
    found = summed(Asked(limit=1), *MIXED)
    assert found.outcomes == {"done": 2, "error": 1, "expired": 1, "cancelled": 1}
    assert (found.promises, found.promises_kept) == (2, 1)
    total = found.percentiles["total_ms"]
    assert (total.count, total.p50, total.p90, total.p99) == (5, 8_000, 60_000, 60_000)
    assert found.percentiles["first_token_ms"].p50 is None


def test_of_very_many_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: the rows, and the durations behind the percentiles."""
    monkeypatch.setattr(requests_summary, "REMEMBERED", 10)
    times = requests_summary.Times()
    for ms in range(1_000):
        times.add(ms)
    found = times.percentiles()
    assert (found.count, found.p50, found.p99) == (1_000, 994, 999)
    summary = Summary(Asked(slowest=True, limit=3))
    ages = random.Random(1).sample(range(10_000), 1_000)
    for n, age_ms in enumerate(ages):
        summary.take(row(n, age_ms=age_ms))
    assert len(summary._slowest) == 3
    assert [each.total_ms for each in summary.ended(0, 1, 1, 1).requests] == sorted(ages)[:-4:-1]


def drawn(found: Ended, width: int = 80) -> str:
    """What is printed at that width."""
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as capture:
        requests_view.draw(console, found)
    return capture.get()


def test_a_narrow_terminal_cuts_nothing() -> None:
    """Long names are folded: all of their letters are there, and no line is longer."""
    long = row(
        1, request=f"open-webui/{'0f' * 16}", model="qwen2.5-coder:14b-instruct-q4_K_M", load_ms=12_345,
        node="orion-worker-in-the-attic", tokens=123_456, first_token_ms=59_000, run_ms=599_000,
        age_ms=700_000, outcome=RequestState.ERROR, code="attempts_exhausted",
    )  # fmt: skip
    out = drawn(summed(Asked(), long))
    table = out.split("\n\n", maxsplit=1)[0]
    assert max(map(len, out.splitlines())) <= 80
    letters = "".join(table.split())
    for words in ("12 s", "59 s", "599 s", "123456"):
        assert words in table
    for words in (long.model, long.node, long.code, f"open-webui/{'0f' * (SHORT // 2)}"):
        assert all(letters.count(letter) >= words.count(letter) for letter in set(words))


def test_a_narrow_terminal_says_when_and_where() -> None:
    """The time of day, with the date where there are several; a node by its short name, in one piece."""
    rows = [row(n, node="orion-worker", ended_ms=n * 1_000, load_ms=12_345) for n in (1, 2)]
    out = drawn(summed(Asked(), *rows))
    assert "ENDED" in out
    ended = datetime.fromtimestamp(1)
    assert f"{ended:%H:%M:%S} brain/q1" in out
    assert " worker " in out
    assert f"{ended:%m-%d %H:%M} brain/q1" in drawn(summed(Asked(), *rows, row(3, ended_ms=9 * 86_400_000)))


def test_the_figures_of_the_screen() -> None:
    """How many ended how, what is left out, percentiles with units, the share of kept promises."""
    out = drawn(summed(Asked(limit=2), *MIXED), width=120)
    assert "5 ended since 1970-01-01" in out
    assert "2 done, 1 error, 1 expired, 1 cancelled; 2 of them are shown" in out
    assert "done, late" in out
    assert "answered in the time that was promised: 1 of 2 (50.0 %)" in out
    assert "in all" in out
    nothing = drawn(summed(Asked(failed=True)))
    assert nothing.startswith("no such request has ended since ")
    assert "P50" not in nothing


def test_shown_ids_are_short_and_still_different() -> None:
    """Of chance: at least eight characters, more where two begin alike. Of a gateway: its ending. What is
    counted, or begins with the time, is whole: others may be called nearly so."""
    rest, seventh = "d" * 16, "018f4e2a-9c3b-7d21-8e5f-0123456789ab"
    keys = [
        f"a/012345678{rest}", f"a/012345670{rest}", f"b/012345678{rest}", "a/q1", "a/q10",
        "b/night-000000117", "assistant/gateway@pi.local.1a2b3c4d.17", "b/anna@home", f"b/{seventh}",
    ]  # fmt: skip
    assert list(map(shortest(keys).get, keys)) == [
        "a/012345678", "a/012345670", "b/01234567", "a/q1", "a/q10", "b/night-000000117",
        "assistant/1a2b3c4d.17", "b/anna@home", f"b/{seventh}",
    ]  # fmt: skip
    assert shortest([]) == {}


@pytest.fixture
def recording(home: Path) -> Path:
    """A file: one request answered late after a failure, one answered, one expired, one still open."""
    log = Log()
    log.commit(1_000, accepted("brain/first"), accepted("chat/second"), accepted("brain/third"))
    log.commit(1_500, routed("brain/first", MASTER), routed("chat/second", WORKER))
    log.commit(2_000, started("chat/second"))
    log.commit(3_000, failed("brain/first", MASTER), routed("brain/first", WORKER, 2))
    log.commit(4_000, completed("chat/second", WORKER))
    log.commit(6_000, started("brain/first", 2))
    for second in range(7, 90):
        log.commit(second * 1_000)
    log.commit(90_000, completed("brain/first", WORKER, 2))
    log.commit(100_000, ev.RequestExpired("brain/third"), accepted("brain/open"))
    path = home / "log.jsonl"
    path.write_bytes(one_segment([raw for _, raw in log.rows]))
    return path


@pytest.fixture
def data(orion: Orion, recording: Path) -> Data:
    """The object of `orion requests --json` of that file."""

    def read(*words: str) -> Any:
        code, out, err = orion("requests", "--file", str(recording), *words, "--json")
        assert (code, err, out.count("\n")) == (0, "", 1)
        return msgspec.json.decode(out)

    return read


def test_a_file_is_read_whole(data: Data) -> None:
    """Each ended request once, with all its times; what is open is not told."""
    found = data()
    assert [each["id"] for each in found["requests"]] == ["third", "first", "second"]
    first = found["requests"][1]
    assert set(first) == set(requests_summary.RequestRow.__struct_fields__)
    assert (first["client"], first["node"], first["attempts"]) == ("brain", WORKER, 2)
    assert (first["waited_ms"], first["total_ms"]) == (5_000, 89_000)
    assert (first["promised_ms"], first["kept_promise"]) == (0, False)
    assert (found["promises"], found["promises_kept"]) == (2, 0)
    assert found["requests"][0]["outcome"] == "expired"


def test_a_model_is_meant_however_it_is_written(data: Data) -> None:
    """As Ollama takes it: without what it would add by itself."""
    found = data("--model", f"library/{MODEL}")
    assert found["requests"]
    assert found == data("--model", MODEL)


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("1s", ["third"]),
        ("15s", ["third", "first"]),
        ("24h", ["third", "first", "second"]),
        ("0", ["third", "first", "second"]),
        ("19", ["third", "first"]),
        ("end", []),
    ],
)
def test_since_is_a_duration_or_a_moment(data: Data, since: str, expected: list[str]) -> None:
    """What ended behind it, and what was open then is known."""
    found = data("--since", since)
    assert [each["id"] for each in found["requests"]] == expected
    assert all(each["waited_ms"] >= 0 for each in found["requests"])


@pytest.mark.parametrize(
    ("since", "says"),
    [("never", "expected a position"), ("-1h", "more than nothing"), ("999", "not in the log"), ("", "")],
)
def test_a_wrong_since_is_said(orion: Orion, recording: Path, since: str, says: str) -> None:
    """One line, exit 78."""
    code, out, err = orion("requests", "--file", str(recording), f"--since={since}")
    assert (code, out, err.count("\n")) == (78, "", 1)
    assert says in err


def test_the_request_that_ended_or_came_last_is_explained(orion: Orion, recording: Path) -> None:
    """In a file: the newest, and before it came the one that had ended then; where there is none it is
    said."""
    code, out, _ = orion("explain", "--last", "--file", str(recording), "--json")
    assert (code, msgspec.json.decode(out)["request"]) == (0, "brain/open")
    lines = recording.read_bytes().splitlines()[1:]
    recording.write_bytes(one_segment([line for line in lines if b"brain/open" not in line]))
    code, out, _ = orion("explain", "--last", "--file", str(recording), "--json")
    assert (code, msgspec.json.decode(out)["request"]) == (0, "brain/third")
    recording.write_bytes(one_segment([raw for _, raw in Log().rows]))
    code, out, err = orion("explain", "--last", "--file", str(recording))
    assert (code, out) == (1, "")
    assert err == f"orion: {recording}: no request was asked yet\n"


def test_an_empty_log_is_an_error_and_an_idle_one_is_not(orion: Orion, home: Path, valkey_url: str) -> None:
    """No log at all, a file without entries, and one in which nothing has ended."""
    (home / "streams.toml").write_text(TOML.format(prefix="nothing:", url=valkey_url))
    code, _, err = orion("requests")
    assert (code, err.count("\n")) == (69, 1)
    assert "nothing:log is empty" in err
    (home / "empty.jsonl").write_bytes(b"")
    code, out, err = orion("requests", "--file", "empty.jsonl")
    assert (code, out, err.count("\n")) == (1, "", 1)
    (home / "idle.jsonl").write_bytes(one_segment([raw for _, raw in Log().rows]))
    code, out, err = orion("requests", "--file", "idle.jsonl")
    assert (code, err) == (0, "")
    assert out.startswith("no such request has ended since ")


@pytest.fixture(scope="module")
def served(valkey_url: str) -> str:
    """streams.toml of a grid in which requests end in every way."""
    text = TOML.format(prefix="ended:", url=valkey_url)

    async def write(store: ServerStore, _: Config) -> None:
        await prepare(store, parse(text))

    asyncio.run(with_store(valkey_url, "ended:", write))
    return text


def test_the_live_log_says_the_same_as_its_events(orion: Orion, home: Path, served: str) -> None:
    """On a real server: each end in the log is a row, and the screen shows them to a person."""
    (home / "streams.toml").write_text(served)
    code, out, _ = orion("requests", "--json", "--limit", "1000")
    found = msgspec.json.decode(out)
    ends = [
        each
        for each in msgspec.json.decode(orion("log", "--from", "1", "--json")[1])
        if each["event"].removeprefix("request.") in ("completed", "failed", "expired", "cancelled")
    ]
    assert code == 0
    assert [f"{each['client']}/{each['id']}" for each in found["requests"]] == [
        each["request"] for each in reversed(ends)
    ]
    _, out, _ = orion("requests", "--failed", "--since", "2h")
    assert "brain/late" in out
    assert "brain/done" not in out
    twice = msgspec.json.decode(orion("requests", "--client", "gateway", "--json")[1])
    assert {client_of(f"{each['client']}/") for each in twice["requests"]} == {"gateway"}
