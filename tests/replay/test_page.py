"""The report in a real browser, at a desk and on a phone: it draws, answers, and needs no network."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, Mark, WaitKind
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.incident import Incident, collect
from orion_streams.replay.render_page import render
from tests.browser import Page
from tests.grids import sample
from tests.replay.logs import (
    MASTER,
    START_MS,
    WORKER,
    Log,
    accepted,
    beats,
    completed,
    failed,
    recorded,
    routed,
    started,
)
from tests.replay.test_render_page import NASTY, hostile

pytestmark = pytest.mark.everything
DESK, PHONE = 1280, 390
WIDTH = "document.documentElement.scrollWidth"
HOT = Verdict(node=MASTER, filter=Filter.HOT, value=75_100, limit=75_000)
COST = Verdict(node=WORKER, cost_ms=12_900, drain_ms=500, load_ms=11_400, decode_ms=1_000)


def story() -> Incident:
    """A node that backs off, a request that is tried twice, a long wait, a silence: one of many things."""
    log = Log()
    for second in range(1, 400):
        hot = 100 <= second < 140
        here = (MASTER, WORKER) if not 200 <= second < 230 else (MASTER,)
        temp_mc = {MASTER: 60_000, WORKER: 80_500 if hot else 55_000}
        log.commit(second * 1_000, *(sample(each, temp_mc=temp_mc[each]) for each in here))
        if second == 20:
            log.commit(
                20_100, accepted("brain/q1"), ev.RequestDeferred("brain/q1", WaitKind.NO_NODE, "", (HOT,))
            )
            log.commit(20_200, routed("brain/q1", WORKER, 1, COST, HOT))
            log.commit(20_300, started("brain/q1"), ev.ModelLoaded(WORKER, "llama3.2:3b", "d", 2_000))
        if second == 50:
            log.commit(50_100, failed("brain/q1", WORKER))
            log.commit(
                50_200,
                routed(
                    "brain/q1", MASTER, 2, Verdict(node=WORKER, filter=Filter.BREAKER, value=1, limit=2)
                ),
            )
            log.commit(50_300, started("brain/q1", 2), accepted("brain/q2"))
        if second == 90:
            log.commit(90_100, completed("brain/q1", MASTER, 2))
        if second == 100:
            log.commit(100_100, ev.NodeBackedOff(WORKER, Mark.HOT, 80_500, 75_000))
        if second == 143:
            log.commit(143_100, ev.NodeReturned(WORKER), routed("brain/q2", WORKER, 1, COST))
            log.commit(143_200, started("brain/q2"))
        if second == 160:
            log.commit(160_100, completed("brain/q2", WORKER))
    return log.incident()


def write(folder: Path, html: str) -> Path:
    """The page as a file."""
    path = folder / "incident.html"
    path.write_text(html, encoding="utf-8")
    return path


def at_peace(page: Page, path: Path) -> None:
    """No error, no exception, and nothing was asked for but the file itself."""
    assert page.complaints == []
    assert set(page.requests) == {path.as_uri()}
    assert page.dialogs == []


async def drawn(page: Page) -> list[bool]:
    """For each chart whether anything stands on its canvas."""
    found: list[bool] = await page.ask(
        "[...document.querySelectorAll('canvas')].map(c => {"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " return d.some(v => v !== 0); })"
    )
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
async def test_it_shows_everything(page: Page, tmp_path: Path, width: int, dark: bool) -> None:
    """Charts for each node, all drawn; a row for each anomaly; nothing wider than the window."""
    incident = story()
    path = write(tmp_path, render(incident))
    await page.open(path, width=width, dark=dark)
    at_peace(page, path)
    nodes = await page.ask("[...document.querySelectorAll('.machine h3')].map(e => e.textContent)")
    assert nodes == [MASTER, WORKER]
    charts = await drawn(page)
    assert len(charts) == 2 + 3 * len(nodes)
    assert all(charts)
    rows = await page.ask("document.querySelectorAll('#rows tr[data-number]').length")
    assert rows == len(incident.anomalies) > 3
    kinds = await page.ask("[...document.querySelectorAll('.chip')].map(e => e.firstChild.textContent)")
    assert kinds == ["Backoff", "Stale health", "Long wait", "Retry"]
    assert await page.ask(WIDTH) <= width


async def test_a_page_that_is_too_wide_is_noticed(page: Page, tmp_path: Path) -> None:
    """Negative control: with one wide element the page scrolls sideways on a phone."""
    html = render(story()).replace("<main>", '<main><p id="wide">wide</p>')
    path = write(tmp_path, html)
    await page.open(path, width=PHONE)
    await page.ask("document.getElementById('wide').style.width = '800px', 1")
    assert await page.ask(WIDTH) > PHONE


async def test_the_head_says_what_the_log_is(page: Page, tmp_path: Path) -> None:
    """Which log, from when to when in the viewer's zone with positions, how its requests ended, and which
    nodes were simulated."""
    some = story()
    incident = replace(some, simulated=(WORKER,), counts=replace(some.counts, unreadable=2))
    path = write(tmp_path, render(incident))
    await page.call("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    await page.open(path, width=DESK)
    head = await page.ask("document.querySelector('header').innerText")
    assert "a log by hand" in head
    assert "2027-01-15 17:00:00 \N{EN DASH} 17:06:39" in head
    assert "Asia/Tokyo, UTC+09:00" in head
    assert f"positions 1 to {incident.events:,}" in head
    assert f"SIMULATED, no real machines: {WORKER}." in await page.ask("document.body.innerText")
    assert "2 other entries were refused." in head
    told = await page.ask("[...document.querySelectorAll('.machine header p')].map(e => e.textContent)")
    assert [each.startswith("SIMULATED · ") for each in told] == [False, True]
    figures = await page.ask(
        "Object.fromEntries([...document.querySelectorAll('#figures > div')]"
        ".map(e => [e.children[0].textContent, e.children[1].firstChild.textContent]))"
    )
    assert figures["requests"] == figures["answered"] == "2"
    assert figures["longest wait"] == "92\u00a0s"
    at_peace(page, path)


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
async def test_pointing_at_a_decision_shows_the_verdicts(page: Page, tmp_path: Path, width: int) -> None:
    """The chosen node with its cost and terms, the other one with its filter, value and limit."""
    path = write(tmp_path, render(story()))
    await page.open(path, width=width)
    said = await pointed_at(page, WORKER, START_MS + 20_200)
    assert "brain/q1 attempt 1 goes to orion-worker" in said
    assert "drain\u00a0500\u00a0ms + load\u00a011\u00a0s + decode\u00a01.0\u00a0s" in said
    assert "too hot: 75.1 °C, limit 75.0 °C" in said
    assert "in memory" in await pointed_at(page, WORKER, START_MS + 350_000), "there is no decision there"
    assert await pointed_at(page, WORKER, START_MS + 10_000) == "", "there is nothing at all there"
    at_peace(page, path)


async def pointed_at(page: Page, node: str, ms: int) -> str:
    """What is shown where a time stands in the requests of a node."""
    box = await page.ask(
        f"(e => (e.scrollIntoView({{block: 'center'}}), e.getBoundingClientRect().toJSON()))"
        f"([...document.querySelectorAll('[data-node=\"{node}\"] .u-over')].pop())"
    )
    await page.settled()
    begin, end = await page.ask("[Number(timeline.dataset.from), Number(timeline.dataset.to)]")
    x = box["x"] + box["width"] * (ms - begin) / (end - begin)
    for y in range(int(box["y"] + box["height"]) - 1, int(box["y"]), -3):
        await page.point(x, y)
        if not await page.ask("tip.hidden"):
            return str(await page.ask("tip.innerText"))
    return ""


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
async def test_an_anomaly_is_a_link_into_the_timeline(page: Page, tmp_path: Path, width: int) -> None:
    """A click moves all charts to its time, marks its row and its node and says what it is; the keyboard
    does the same."""
    incident = story()
    path = write(tmp_path, render(incident))
    await page.open(path, width=width)
    number = next(n for n, each in enumerate(incident.anomalies) if each.kind == "backoff")
    found = incident.anomalies[number]
    await page.click(f'tr[data-number="{number}"] a')
    begin, end = await page.ask("[Number(timeline.dataset.from), Number(timeline.dataset.to)]")
    assert incident.begin.ms < begin < found.begin.ms < found.end.ms < end < incident.end.ms
    scales = await page.ask("charts.map(c => [c.scales.x.min, c.scales.x.max])")
    assert scales == [[begin, end]] * len(scales)
    assert await page.ask("document.querySelector('tr[aria-current]').dataset.number") == str(number)
    assert await page.ask("document.querySelector('.machine.is-chosen').dataset.node") == WORKER
    assert found.sentence in await page.ask("document.getElementById('chosen').innerText")
    await page.ask("document.querySelector('[data-move=all]').click()")
    assert await page.ask("Number(timeline.dataset.to)") == incident.end.ms
    await page.ask(f"document.querySelector('tr[data-number=\"{number + 1}\"] a').focus()")
    await page.press("Enter")
    assert await page.ask("document.querySelector('tr[aria-current]').dataset.number") == str(number + 1)
    assert await page.ask("Number(timeline.dataset.to)") != incident.end.ms
    at_peace(page, path)


async def test_kinds_can_be_left_out(page: Page, tmp_path: Path) -> None:
    """A click on a kind takes its rows away, another one brings them back."""
    path = write(tmp_path, render(story()))
    await page.open(path, width=DESK)
    count = "document.querySelectorAll('#rows tr[data-number]').length"
    before = await page.ask(count)
    await page.click(".chip.kind-retry")
    assert await page.ask(count) == before - 1
    assert (
        await page.ask("document.querySelector('.chip.kind-retry').getAttribute('aria-pressed')") == "false"
    )
    await page.click(".chip.kind-retry")
    assert await page.ask(count) == before


async def test_a_crowd_of_one_kind_does_not_bury_the_others(page: Page, tmp_path: Path) -> None:
    """Many long waits are left out until their chip is pressed, and the page says how many there are; a
    finding that is not listed can be linked to all the same. Alone they are listed at once."""
    log = Log()
    log.commit(500, ev.NodeBackedOff(WORKER, Mark.HOT, 80_500, 75_000))
    for n in range(50):
        log.commit(1_000 + n, accepted(f"brain/q{n}"))
    for n in range(50):
        log.commit(90_000 + n, routed(f"brain/q{n}", MASTER), completed(f"brain/q{n}", MASTER))
    path = write(tmp_path, render(log.incident()))
    await page.open(path, width=DESK)
    count = "document.querySelectorAll('#rows tr[data-number]').length"
    assert await page.ask(count) == 1
    note = await page.ask("document.getElementById('anomalies-note').textContent")
    assert "50 of the kind “Long wait” are listed once you switch them on." in note
    await page.ask("location.hash = 'anomaly-10', 1")
    await page.settled()
    assert "Long wait" in await page.ask("document.getElementById('chosen').innerText")
    await page.click(".chip.kind-wait")
    assert await page.ask(count) == 51
    at_peace(page, path)
    alone = Log()
    for n in range(50):
        alone.commit(1_000 + n, accepted(f"brain/q{n}"))
    alone.commit(90_000)
    await page.open(write(tmp_path, render(alone.incident())), width=DESK)
    assert await page.ask(count) == 50


async def test_decisions_in_view_are_listed_for_the_keyboard(page: Page, tmp_path: Path) -> None:
    """What a pointer shows stands in a list as well, which follows the range."""
    path = write(tmp_path, render(story()))
    await page.open(path, width=PHONE)
    listed = await page.ask("[...document.querySelectorAll('#decisions summary')].map(e => e.innerText)")
    assert len(listed) == 4
    assert "brain/q1 waits: no node can take it" in listed[0]
    await page.ask("document.querySelectorAll('#decisions details').forEach(e => e.open = true)")
    assert "breaker open after failures" in await page.ask("document.getElementById('decisions').innerText")


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
async def test_hostile_names_do_nothing(page: Page, tmp_path: Path, width: int) -> None:
    """A request, a model, a code and a log that are named like markup are shown as they are called."""
    path = write(tmp_path, hostile())
    await page.open(path, width=width)
    at_peace(page, path)
    assert await page.ask("document.querySelectorAll('img').length") == 0
    assert await page.ask("document.querySelector('h1').textContent") == NASTY
    assert NASTY in await page.ask("document.querySelector('#rows').textContent")
    said = await pointed_at(page, WORKER, START_MS + 2_000)
    assert "onerror=alert(1)" in said
    assert await page.ask(WIDTH) <= width
    at_peace(page, path)


async def test_markup_that_does_something_is_noticed(page: Page, tmp_path: Path) -> None:
    """Negative control: with a name as markup the console complains of what the policy refuses; without the
    policy the page asks for an image and opens a dialog."""
    html = render(story()).replace("<main>", "<img src=x.png onerror=alert(1)><main>")
    await page.open(write(tmp_path, html), width=DESK)
    assert (page.complaints != [], page.dialogs) == (True, [])
    await page.open(write(tmp_path, html.replace("http-equiv", "data-was")), width=DESK)
    assert page.dialogs == ["1"]
    assert any(each.endswith("x.png") for each in page.requests)


async def test_what_a_log_lacks_is_said(page: Page, tmp_path: Path) -> None:
    """Nodes without a sensor, without any health; a log without requests; an empty log."""
    log = Log(policy=Policy())
    beats(log, WORKER, 1, 4, temp_mc=None)
    for html, expected in (
        (render(log.incident()), ["no temperature of this node", "no health entry of this node"]),
        (render(collect(LoggedGrid(Grid()), [], "an empty log")), ["Nothing out of the ordinary"]),
    ):
        path = write(tmp_path, html)
        await page.open(path, width=PHONE)
        text = await page.ask("document.body.innerText")
        for sentence in expected:
            assert sentence in text
        assert page.complaints == []


async def test_a_long_log_is_drawn(page: Page, tmp_path: Path) -> None:
    """Hours of three simulated nodes, with more attempts than a row has pixels."""
    rows = recorded("load-heavy", "bursty", 300)
    path = write(tmp_path, render(collect(LoggedGrid(Grid()), [rows], "a simulated run")))
    await page.open(path, width=PHONE)
    assert all(await drawn(page))
    at_peace(page, path)
