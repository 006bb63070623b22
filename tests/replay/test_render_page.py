"""The page as a file: nothing from outside becomes markup, no network is needed, it stays small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.text import held_back
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Blame, Filter
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay import render_page
from orion_streams.replay.incident import collect
from orion_streams.replay.render_page import PAGE, SCRIPTS, render
from tests.cli.run_cli import ROOT
from tests.replay.decided import chunks
from tests.replay.logs import MASTER, WORKER, Log, accepted, completed, recorded, routed, started

NASTY = "</script><img src=x onerror=alert(1)><!-- {{script}} & \u2028 '\""


class Reader(HTMLParser):
    """The elements of a page, with the text of its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[int, str] = {}
        self._is_open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

        self._is_open = True

    def handle_endtag(self, tag: str) -> None:
        self._is_open = False

    def handle_data(self, data: str) -> None:
        if self._is_open:
            self.inner[len(self.elements) - 1] = self.inner.get(len(self.elements) - 1, "") + data


def read(page: str) -> Reader:
    """Parse it as a browser would."""
    reader = Reader()
    reader.feed(page)
    return reader


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    reader = read(page)
    [place] = [n for n, (_, attrs) in enumerate(reader.elements) if attrs.get("id") == "data"]
    found: dict[str, Any] = json.loads(reader.inner[place])
    return found


def hostile(text: str = NASTY) -> str:
    """The page of a log in which every name that comes from outside is this text."""
    log = Log()
    log.commit(1_000, ev.ModelLoaded(WORKER, text, text, 1), accepted(text, text))
    log.commit(
        2_000,
        routed(
            text,
            WORKER,
            1,
            Verdict(node=text, filter=Filter(text)),
            Verdict(node=WORKER, evicts=(text,), cost_ms=1),
        ),
    )
    log.commit(2_100, started(text))
    log.commit(3_000, ev.AttemptFailed(text, 1, WORKER, "", text, Blame(text)), completed(text, WORKER))
    log.commit(4_000, accepted(text + "2", text), ev.RequestFailed(text + "2", text))
    return render(collect(LoggedGrid(Grid()), chunks(log.rows), text))


def skeleton(page: str) -> list[str]:
    """The page's elements, whatever it says."""
    return [tag for tag, _ in read(page).elements]


def test_nothing_from_outside_becomes_markup() -> None:
    """A page of hostile names has the same elements as any other, and its data says the names unchanged."""
    page = hostile()
    assert skeleton(page) == skeleton(hostile("harmless"))
    words = data_of(page)["words"]
    assert NASTY in words
    assert data_of(page)["source"] == NASTY


@given(st.text(max_size=60))
@settings(max_examples=40)
def test_no_text_becomes_markup(text: str) -> None:
    """The same for any text."""
    page = hostile(text)
    assert skeleton(page) == skeleton(hostile("harmless"))
    assert data_of(page)["source"] == text


def test_unescaped_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with plain JSON the page of hostile names has other elements."""
    monkeypatch.setattr(render_page, "embedded", lambda data: json.dumps(msgspec.to_builtins(data)))
    assert skeleton(hostile()) != skeleton(hostile("harmless"))


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    """No network, no evaluation, no inline code but ours by its hash; the hashes are right."""
    reader = read(hostile())
    [policy] = [attrs["content"] for _, attrs in reader.elements if attrs.get("http-equiv")]
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["img-src"] == ["data:"]
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        codes = [
            reader.inner[n]
            for n, (name, attrs) in enumerate(reader.elements)
            if name == tag and attrs.get("type") != "application/json"
        ]
        hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in codes]
        assert rules[directive] == [f"'sha256-{each}'" for each in hashes]


def test_no_element_names_another_file() -> None:
    """The page is whole: nothing in it is fetched."""
    for tag, attrs in read(hostile()).elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "#") in ("#", "data:,"), (tag, attrs)


def test_the_script_writes_text_and_not_markup() -> None:
    """What would turn text into elements or code stands nowhere in the page's own script."""
    script = "\n".join((PAGE / name).read_text() for name in SCRIPTS)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script
    )


def test_the_library_comes_with_its_licence() -> None:
    """uPlot's licence stands beside it, and with its name and version in each page."""
    licence = (PAGE / "vendor/uplot/LICENSE").read_text()
    assert "The MIT License" in licence
    page = hostile()
    assert licence in page
    [version] = re.findall(r"uPlot \(v([\d.]+)\)", page)
    assert f"uPlot {version}" in (ROOT / "ARCHITECTURE.md").read_text()


def test_verdicts_are_in_the_words_of_the_command_line() -> None:
    """A filter with its value and limit, a cost with its terms, as `orion explain` has them."""
    log = Log()
    hot = Verdict(node=MASTER, filter=Filter.HOT, value=75_100, limit=75_000)
    cost = Verdict(node=WORKER, cost_ms=1_200, load_ms=900, decode_ms=400, cached_ms=100, evicts=("a", "b"))
    log.commit(1_000, accepted("brain/q1"))
    log.commit(2_000, routed("brain/q1", WORKER, 1, hot, cost))
    data = data_of(render(log.incident()))
    words = data["words"]
    filtered, costly = data["attempts"][0][-1]
    assert words[filtered[0]] == MASTER
    assert words[-1 - filtered[1]] == held_back(hot)
    node, cost_ms, *terms, evicts = costly
    named = {data["terms"][n]: ms for n, ms in zip(terms[::2], terms[1::2], strict=True)}
    assert (words[node], cost_ms) == (WORKER, 1_200)
    assert named == {"load": 900, "decode": 400, "cached": 100}
    assert data["terms"][data["subtracted"]] == "cached"
    assert [words[n] for n in evicts] == ["a", "b"]


def test_the_same_log_gives_the_same_page() -> None:
    """No clock, no chance: a report can be compared with another one."""
    rows = recorded("decode-heavy", "bursty", 20)
    pages = {render(collect(LoggedGrid(Grid()), chunks(rows), "a log")) for _ in range(2)}
    assert len(pages) == 1


def test_a_page_stays_small_however_long_the_log_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the limits the page of hours is a small part of what it is with them: what grows with
    the log is bounded by them."""
    rows = recorded("load-heavy", "bursty", 400)
    whole = len(render(collect(LoggedGrid(Grid()), chunks(rows), "a log")))
    empty = len(render(collect(LoggedGrid(Grid()), [], "a log")))
    for name, value in {
        "node_timeline.MAX_POINTS": 600,
        "request_table.MAX_SLOW": 10,
        "node_timeline.MIN_POINTS": 100,
        "request_timeline.MAX_ATTEMPTS": 40,
        "request_timeline.MAX_DEFERRALS": 20,
        "request_timeline.MAX_QUEUE_POINTS": 100,
        "anomalies.MOST_SHOWN": 10,
        "page_data.MAX_SPANS": 20,
        "incident.MAX_POINTS": 600,
    }.items():
        monkeypatch.setattr(f"orion_streams.replay.{name}", value)
    small = len(render(collect(LoggedGrid(Grid()), chunks(rows), "a log")))
    assert (small - empty) * 5 < whole - empty


def test_the_page_s_files_belong_to_the_package() -> None:
    """Whatever the page is made of stands in the package's folder, where a wheel takes it from, and no rule
    for files to be ignored hides any of it."""
    ignored = (ROOT / ".gitignore").read_text().split()
    for path in (*(PAGE / name for name in SCRIPTS), PAGE / "vendor/uplot/uPlot.iife.min.js"):
        assert path.is_file()
        parts = Path(path).relative_to(ROOT / "orion_streams").parts
        assert not {f"{part}/" for part in parts} & set(ignored)
