"""What the page does by itself and when it is touched: it follows, comes back, opens, asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orion_streams.agents.key_file import change, path_of
from orion_streams.gateway.keys import Key, digest_of, with_key
from orion_streams.protocol.agent_entries import InstalledModel, ResidentModel
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.browser import Page
from tests.helpers import Run, ask, eventually
from tests.page.page_eyes import CUT_OFF, FAINT, SOURCES, foreign, says, text
from tests.page.page_scenes import MINUTES, SCENES
from tests.page.page_stage import BIG, MASTER, SMALL, WORKER, PageStage, page_stage

pytestmark = pytest.mark.everything
DEGREES = f"document.querySelector('[data-node={WORKER}] .degrees').innerText"
GREY = "getComputedStyle(document.querySelector('main')).filter === 'grayscale(1)'"
FOCUSED = "document.activeElement"
NASTY = "<img src=x onerror=alert(1)>"
ASK = "document.querySelector('#ask-send')"
GIVEN_UP = f"""
(async () => {{
  const {{ fillCards }} = await import('/orion/page/cards.js');
  const stream = new EventSource('/orion/v1/live');
  const first = await new Promise((take) => {{ stream.onmessage = take; }});
  const view = JSON.parse(first.data);
  stream.close();
  const node = view.nodes.find((each) => each.name === {WORKER!r}), run = node.doing[0];
  node.doing = [{{ ...run, number: 0, id: '' }}, {{ ...run, number: 0, id: '' }}];
  fillCards(view, view.at_ms, {{ open: () => 0, mine: () => false }});
  return document.querySelectorAll('[data-node={WORKER}] .doing').length;
}})()
"""
"""How many rows a card has of two runs of one model whose requests are over."""
LINES_OF_ANSWER = """
(e => e.clientHeight / parseFloat(getComputedStyle(e).lineHeight))(document.querySelector('#ask-answer'))
"""
TOKEN = "orion-a-key-of-a-test"
STATES = "window.sources.map((each) => each.readyState)"


@pytest.fixture
async def stage(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[PageStage]:
    """A quiet grid: the worker answers, the master is free."""
    quiet = SCENES["quiet"]
    async with page_stage(valkey_url, prefix, tmp_path, quiet.prepare, before_minutes=MINUTES) as made:
        yield made


async def open_page(page: Page, url: str, cards: int = 3) -> None:
    """The page, with its cards."""
    await page.open(url, width=1280, height=800)
    await page.until(f"document.querySelectorAll('.node').length === {cards}")


def at_peace(page: Page, stage: PageStage) -> None:
    """No error in the console, and nothing asked for elsewhere."""
    assert page.complaints == []
    assert foreign(page, stage.url) == []
    assert page.dialogs == []


async def test_it_follows_the_grid(page: Page, stage: PageStage) -> None:
    """What a node says next stands on its card, without anybody touching the page; one stream does it."""
    await page.first(SOURCES)
    await open_page(page, stage.url)
    stage.nodes[WORKER].health = {**(stage.nodes[WORKER].health or {}), "temp_mc": 66_400}
    await page.until(f"{DEGREES} === '66\\u00a0°C'")
    assert await page.ask(f"document.querySelector('[data-node={WORKER}] .warm-2') !== null")
    assert await page.ask(STATES) == [1]
    assert await page.ask("document.title") == f"{await text(page, '#sentence')} · orion-streams"
    at_peace(page, stage)


async def test_a_hidden_tab_has_no_stream(page: Page, stage: PageStage) -> None:
    """In the background its stream is closed, in the foreground there is one again."""
    await page.first(SOURCES)
    await open_page(page, stage.url)
    await page.call("Target.createTarget", url="about:blank")
    await page.until(f"document.hidden && {STATES}.every((each) => each === 2)")
    await page.call("Page.bringToFront")
    await page.until(f"{STATES}.join() === '2,1'")


async def test_cut_off_it_greys_and_comes_back(page: Page, stage: PageStage) -> None:
    """Without a gateway nothing is green: the page greys and says when it heard last, and can be read;
    once the gateway is there it goes on by itself."""
    await open_page(page, stage.url)
    port = int(stage.url.rpartition(":")[2])
    await stage.stop_serving()
    await page.until(CUT_OFF)
    assert await page.ask(GREY)
    assert "Last heard" in await text(page, "#sentence")
    assert await text(page, "#mode") == "cut off"
    assert await page.ask(FAINT) == []
    await stage.serve(port)
    await page.until(f"!({CUT_OFF}) && !({GREY})")
    await says(page, "All well", "#sentence")


async def test_redis_away_is_said(page: Page, tmp_path: Path) -> None:
    """While Redis is away the page says so and greys; it comes back by itself."""
    with EmbeddedServer(tmp_path / "server", fsync="always") as server:
        quiet = SCENES["quiet"]
        async with page_stage(
            server.url, "away:", tmp_path, quiet.prepare, before_minutes=MINUTES
        ) as stage:
            await open_page(page, stage.url)
            await stage.rest()
            server.kill()
            await says(page, "Cannot hear Redis since", "#sentence")
            assert await page.ask(f"{CUT_OFF} && {GREY}")
            await page.until(f"{ASK}.disabled")
            assert "ago" not in await text(page, "#reasons")
            server.start()
            stage.play()
            await says(page, "All well", "#sentence")
            assert not await page.ask(f"{CUT_OFF} || {ASK}.disabled")
            at_peace(page, stage)


async def test_two_that_nobody_waits_for_are_two(page: Page, stage: PageStage) -> None:
    """Runs of no request of one model are a row each, as many as the card is told."""
    await open_page(page, stage.url)
    rows = await page.ask(GIVEN_UP)
    assert rows == 2


async def test_a_card_opens_its_day(page: Page, stage: PageStage) -> None:
    """A click anywhere on a card opens the node's day as a chart, drawn; Escape closes it."""
    await open_page(page, stage.url)
    await page.click(f"[data-node={WORKER}] .ram")
    await page.until("document.querySelector('#panel canvas') !== null")
    assert await text(page, "#panel-title") == WORKER
    assert await page.ask(
        "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v !== 0))"
        "(document.querySelector('#panel canvas'))"
    )
    assert await page.ask(FAINT) == []
    await page.press("Escape")
    assert not await page.ask("document.querySelector('#panel').open")
    at_peace(page, stage)


async def test_a_lozenge_opens_its_verdicts(page: Page, stage: PageStage) -> None:
    """A click on what waits says where it would go, and what each node is for it."""
    await stage.asked(4, ("brain", "alice"))
    await open_page(page, stage.url)
    await page.until("document.querySelectorAll('.lozenge').length > 1")
    await page.click(".lozenge")
    await says(page, "edge: no inference", "#panel-body")
    assert "worker" in await text(page, "#panel-body")
    at_peace(page, stage)


async def test_everything_works_by_keyboard(page: Page, stage: PageStage) -> None:
    """Tab goes through cards, one lozenge, the box and the bar, each marked; arrows move among the lozenges
    and in time, Enter opens, End is live again."""
    await stage.asked(5, ("brain", "alice"))
    await open_page(page, stage.url)
    await page.until("document.querySelectorAll('.lozenge').length > 2")
    seen = []
    for _ in range(20):
        await page.press("Tab")
        seen.append(await page.ask(f"{FOCUSED}.id || {FOCUSED}.className || {FOCUSED}.tagName"))
        outline = await page.ask(
            f"['', '::after'].map((part) => getComputedStyle({FOCUSED}, part).outlineStyle)"
        )
        assert set(outline) != {"none"} or seen[-1] == "BODY", f"{seen[-1]} is not marked"
        if seen[-1] == "go-to":
            break
    assert [each for each in seen if each == "open"] == ["open"] * 3
    assert [each for each in seen if each.startswith("lozenge")] != []
    assert {"ask-model", "ask-prompt", "ask-send", "bar", "decisions"} <= set(seen)
    await page.ask("document.querySelector('.lozenge[tabindex=\"0\"]').focus()")
    await page.press("ArrowRight")
    assert await page.ask(f"[...document.querySelectorAll('.lozenge')].indexOf({FOCUSED})") == 1
    await page.press("Enter")
    await says(page, "edge: no inference", "#panel-body")
    await page.press("Escape")
    await page.ask("document.querySelector('#bar').focus()")
    for _ in range(3):
        await page.press("ArrowLeft")
    await page.until("document.documentElement.dataset.mode === 'past'")
    await page.press("End")
    await page.until("document.documentElement.dataset.mode === 'live'")
    at_peace(page, stage)


async def begun(stage: PageStage, node: str, other_than: tuple[Run, ...] = ()) -> Run:
    """A run that a node has begun."""

    def found() -> list[Run]:
        return [run for run in stage.nodes[node].runs.values() if run not in other_than]

    runs: list[Run] = await eventually(found, f"{node} has begun something")
    return runs[0]


async def test_a_question_shows_where_it_goes(page: Page, stage: PageStage) -> None:
    """What is asked in the box is marked on the card that answers it; its answer stands in the box."""
    await open_page(page, stage.url)
    await page.ask(f"document.querySelector('#ask-model').value = {BIG!r}")
    await page.type("#ask-prompt", "Why is the sky blue?")
    await page.press("Enter")
    run = await begun(stage, MASTER)
    await page.until(f"document.querySelector('[data-node={MASTER}] .doing.mine')")
    await says(page, "On master", "#ask-where")
    assert "sky" not in await text(page, "#nodes")
    await stage.nodes[MASTER].say(run, "tokens", b"Because of Rayleigh.", seq=1)
    await says(page, "Because of Rayleigh.", "#ask-answer")
    for width, height in ((1280, 800), (1024, 600)):
        await page.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                        deviceScaleFactor=1, mobile=False)  # fmt: skip
        assert await page.ask(LINES_OF_ANSWER) > 1
    await stage.nodes[MASTER].complete(run, b"Because of Rayleigh.")
    await says(page, f"Answered by {MASTER}", "#ask-where")
    await page.until("!document.querySelector('.mine')")
    at_peace(page, stage)


async def test_a_question_that_waits_is_marked(page: Page, stage: PageStage) -> None:
    """While it waits, its lozenge carries the ring; the box says what is before it; it can be stopped."""
    await stage.asked(4, ("brain", "alice"), (SMALL, BIG))
    await begun(stage, MASTER)
    await open_page(page, stage.url)
    await page.type("#ask-prompt", "Why?")
    await page.click("#ask-send")
    await page.until("document.querySelectorAll('.lozenge.mine').length === 1")
    await says(page, "Waits", "#ask-where")
    await page.click("#ask-send")
    await says(page, "Stopped", "#ask-where")
    await page.until("!document.querySelector('.lozenge.mine')")


def add_key(stage: PageStage, *, view_only: bool) -> None:
    """A key of the gateway."""
    key = Key(name="wall", client="alice", hash=digest_of(TOKEN), created="2026-11-29", view_only=view_only)
    change(path_of(stage.config), lambda table: with_key(table, key))


@pytest.mark.parametrize("view_only", [False, True], ids=["asks", "looks"])
async def test_a_key_is_asked_for_once(page: Page, stage: PageStage, view_only: bool) -> None:
    """From beyond this machine a key is asked for; a wrong one is refused with a sentence, a good one is
    remembered without being kept where a script reads it. A key for looking only has no box."""
    add_key(stage, view_only=view_only)
    await page.call("Network.enable")
    await page.call("Network.setExtraHTTPHeaders", headers={"X-Forwarded-For": "10.9.8.7"})
    await page.open(f"{stage.url}/#at=300", width=1280, height=800)
    await page.until("document.querySelector('#key').open")
    await says(page, "this browser keeps it", "#key-why")
    await eventually(lambda: sum("/v1/past?" in each for each in page.requests), "the moment is asked for")
    await page.ask("fetch('/orion/v1/past?at=300').then((answer) => answer.text())")
    assert "Authorization" not in await text(page)
    await page.type("#key-text", "orion-wrong")
    await page.press("Enter")
    await says(page, "not known", "#key-why")
    await page.ask("document.querySelector('#key-text').value = ''")
    await page.type("#key-text", TOKEN)
    await page.press("Enter")
    await page.until("document.querySelectorAll('.node').length === 3")
    await page.click("#back")
    assert await page.ask("document.querySelector('#ask').hidden") is view_only
    assert "wall" in await text(page, "#caller")
    assert await page.ask("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    await open_page(page, stage.url)
    assert not await page.ask("document.querySelector('#key').open")
    await page.leads("document.querySelector('#forget').click()")
    await page.until("document.querySelector('#key').open")


async def test_names_from_outside_are_text(page: Page, stage: PageStage) -> None:
    """A model and a request that are named like markup are shown as they are called, and do nothing."""
    node = stage.nodes[MASTER]
    node.installed = (*node.installed, InstalledModel(NASTY, "d", 700))
    node.health = {**(node.health or {}), "resident": (ResidentModel(NASTY, "d", 700),)}
    await open_page(page, stage.url)
    await says(page, NASTY, f"[data-node={MASTER}] .chips")
    for n in range(2):
        await ask(stage.store, f"{NASTY}{n}", model=BIG)
    await page.until("document.querySelector('.lozenge')")
    await page.click(".lozenge")
    await says(page, NASTY, "#panel-body")
    assert await page.ask("document.querySelectorAll('img').length") == 0
    at_peace(page, stage)


async def test_markup_that_does_something_is_noticed(page: Page, stage: PageStage) -> None:
    """Negative control: a name as markup is an image, of which the strict policy makes a complaint."""
    await open_page(page, stage.url)
    await page.ask(f"document.querySelector('#decisions').innerHTML = {NASTY!r}")
    assert await page.ask("document.querySelectorAll('img').length") == 1
    await eventually(lambda: page.complaints, "the console complains")


async def test_clients_have_colours_of_their_own(page: Page, stage: PageStage) -> None:
    """A client's colour depends on its name alone: it is the same in the queue and on a card."""
    await stage.asked(6, ("brain", "alice", "open-webui"))
    await open_page(page, stage.url)
    await page.until("document.querySelectorAll('.lozenge').length > 3")
    tints = await page.ask(
        "[...document.querySelectorAll('.lozenge, .doing')].filter(e => e.querySelector('bdi').textContent)"
        ".map(e => [e.querySelector('bdi').textContent, /tint-\\d/.exec(e.className)[0]].join(' '))"
    )
    assert len({each.split()[0] for each in tints}) == len(set(tints)) == 3
    assert len({each.split()[1] for each in tints}) == 3
