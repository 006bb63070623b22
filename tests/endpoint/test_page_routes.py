"""The page's routes by raw HTTP: what a browser is given, and who is let in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.agents import key_file, page_files
from orion_streams.gateway import keys
from orion_streams.gateway.keys import Key
from orion_streams.gateway.page_session import COOKIE
from tests.contract.contract_grid import MODEL, silence
from tests.endpoint.event_stream import got, json_of, tab
from tests.endpoint.wire import RUNNING, Answer, wire
from tests.gateway.gateway_stage import Stage, gateway
from tests.helpers import eventually
from tests.needs import other_address

HTML = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
SESSION = "/orion/v1/session"


@pytest.fixture
async def stage(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway on this machine."""
    async with gateway(valkey_url, prefix, tmp_path) as opened:
        yield opened


def made(folder: Path, name: str, **values: Any) -> str:
    """The token of a new key."""
    token = keys.token_of(name.encode().ljust(keys.TOKEN_BYTES, b"."))
    key = Key(name=name, client=f"key-{name}", hash=keys.digest_of(token), created="2026-11-01", **values)
    key_file.change(folder / "keys.json", lambda table: keys.with_key(table, key))
    return token


async def session(url: str, token: str, *more: str, host: str = "") -> Answer:
    """What a page gets that gives a key."""
    async with wire(url, host) as line:
        await line.post(SESSION, {"key": token}, *more)
        return await line.answer()


async def test_a_browser_gets_the_page_and_programs_what_ollama_says(stage: Stage) -> None:
    """By what they accept, on the same path."""
    page = await got(stage.url, "/", HTML)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.body.startswith(b"<!doctype html>")
    for accept in ("Accept: */*", "Accept: application/json", "X-None: 1"):
        answer = await got(stage.url, "/", accept)
        assert (answer.status, answer.body) == (200, RUNNING)
        assert "content-security-policy" not in answer.headers


async def test_the_page_may_load_nothing_from_elsewhere(stage: Stage) -> None:
    """All its files are under the strict policy, and are asked for again with their tag."""
    for path in ("/", "/orion/page/uPlot.iife.min.js", "/orion/page/uPlot.min.css", "/orion/page/base.css"):
        answer = await got(stage.url, path, HTML)
        assert answer.status == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        again = await got(stage.url, path, HTML, f"If-None-Match: {answer.headers['etag']}")
        assert (again.status, again.body) == (304, b"")
    assert {each[0] for each in page_files.found()} >= {"index.html", "uPlot.iife.min.js"}


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "..%2F..%2Fconfig.py", "..", "template.html", "LICENSE", "%00", "vendor/uplot/x.js"],
)
async def test_nothing_but_the_pages_files_is_served(stage: Stage, name: str) -> None:
    """404, whatever the path says."""
    assert (await got(stage.url, f"/orion/page/{name}")).status == 404


async def test_this_machine_needs_no_cookie(stage: Stage) -> None:
    """It sees the grid, and all of it; a foreign page does not, nor does one by a foreign name."""
    async with tab(stage.url) as opened:
        assert opened.headers["content-type"] == "text/event-stream"
        assert opened.headers["cache-control"] == "no-store"
        view = (await opened.next()).view
    assert view["caller"] == {"client": "gateway", "name": "", "view_only": False, "sees_all": True}
    assert (await got(stage.url, "/orion/v1/live", "Origin: https://evil.example")).status == 403
    assert (await got(stage.url, "/orion/v1/timeline", "Host: evil.example")).status == 403


@pytest.mark.everything(bool(other_address()))
async def test_a_key_becomes_a_cookie_that_is_asked_for_once(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """Beyond loopback: the page without one, 401 for its data, then the cookie, until it is forgotten or
    the key is removed."""
    far = other_address()
    async with gateway(valkey_url, prefix, tmp_path, listen="0.0.0.0:1") as stage, AsyncExitStack() as held:
        url = stage.url
        token = made(tmp_path, "wall", view_only=True)
        assert (await got(url, "/", HTML, host=far)).status == 200
        assert (await got(url, "/", host=far)).status == 401
        assert (await got(url, "/orion/v1/timeline", host=far)).status == 401
        refused = await session(url, token[:-1] + "A", host=far)
        assert (refused.status, "set-cookie" in refused.headers) == (401, False)
        assert "not known" in refused.error
        begun = await session(url, token, host=far)
        assert (begun.status, begun.body) == (204, b"")
        header = begun.headers["set-cookie"]
        assert "HttpOnly; SameSite=Strict" in header
        assert token not in header
        assert (
            "Secure"
            in (await session(url, token, "X-Forwarded-Proto: https", host=far)).headers["set-cookie"]
        )
        cookie = f"Cookie: {header.partition(';')[0]}"
        assert (await got(url, "/orion/v1/timeline", cookie, host=far)).status == 200
        watching = await held.enter_async_context(tab(url, cookie, host=far))
        view = (await watching.next()).view
        assert view["caller"] == {
            "client": "key-wall",
            "name": "wall",
            "view_only": True,
            "sees_all": False,
        }
        ended = await got(url, SESSION, cookie, "Origin: http://localhost", method="DELETE", host=far)
        assert (ended.status, f"{COOKIE}=; Max-Age=0" in ended.headers["set-cookie"]) == (204, True)
        key_file.change(tmp_path / "keys.json", lambda table: keys.without_key(table, "wall"))

        async def is_refused() -> bool:
            return (await got(url, "/orion/v1/timeline", cookie, host=far)).status == 401

        await eventually(is_refused, "the cookie ends with its key")
        with pytest.raises(EOFError):  # the end of its stream
            while True:
                await watching.next()


async def test_a_foreign_page_writes_nothing_by_the_cookie(stage: Stage, tmp_path: Path) -> None:
    """403 from another port of the same host, and without an origin; our own page's question is answered,
    and a key for looking only asks nothing."""
    cookies = {}
    for name, values in (("anna", {}), ("wall", {"view_only": True})):
        header = (await session(stage.url, made(tmp_path, name, **values))).headers["set-cookie"]
        cookies[name] = f"Cookie: {header.partition(';')[0]}"
    body = {"model": MODEL, "prompt": "Why?", "stream": False}

    async def asked(name: str, *more: str) -> int:
        async with wire(stage.url) as line:
            await line.post("/api/generate", body, cookies[name], *more)
            return (await line.answer()).status

    assert await asked("anna", "Origin: http://localhost:3000") == 403
    assert await asked("anna") == 403
    assert await asked("wall", "Origin: http://localhost") == 403
    assert not stage.grid.runs
    assert await asked("anna", "Origin: http://localhost") == 200
    [run] = stage.grid.runs
    assert run.head.request.startswith("key-anna/")


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 5_000])
async def test_a_session_without_a_key_is_refused(stage: Stage, body: bytes) -> None:
    """With what was expected."""
    async with wire(stage.url) as line:
        await line.post(SESSION, body)
        assert (await line.answer()).status in (400, 413)


async def test_a_key_sees_ids_of_its_own_requests_only(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """In the stream, the state, the past and the reasons; the control: a key that may see all, and this
    machine, which needs none."""
    async with gateway(valkey_url, prefix, tmp_path, silence) as stage:
        url = stage.url
        tokens = {
            name: f"Authorization: Bearer {made(tmp_path, name, **values)}"
            for name, values in (("anna", {}), ("bert", {}), ("boss", {"sees_all": True}))
        }
        async with wire(url) as line:
            await line.post("/api/generate", {"model": MODEL, "prompt": "Why?"}, tokens["anna"])
            [run] = await eventually(lambda: stage.grid.runs, "it runs")
            key = run.head.request
            name = key.partition("/")[2]
            shown = {}
            for who, header in {**tokens, "here": "X-None: 1"}.items():
                async with tab(url, header) as opened:
                    told = await opened.until(lambda view: any(card["doing"] for card in view["nodes"]))
                [doing] = [each for card in told.view["nodes"] for each in card["doing"]]
                assert (doing["client"], doing["model"]) == ("key-anna", MODEL)
                number, last = doing["number"], told.id
                texts = [msgspec.json.encode(told.view)]
                for path in (
                    "/orion/v1/state", f"/orion/v1/past?at={last}", f"/orion/v1/why?number={number}",
                    f"/orion/v1/why?number={number}&at={last}", "/orion/v1/timeline",
                    "/orion/v1/day?node=one",
                ):  # fmt: skip
                    texts.append(msgspec.json.encode(await json_of(url, path, header)))
                shown[who] = [name.encode() in text for text in texts]
    everywhere = [True] * 5 + [False] * 2
    assert shown == {
        "anna": everywhere, "bert": [False] * 7, "boss": everywhere, "here": everywhere,
    }  # fmt: skip


async def test_a_time_of_day_leads_to_its_moment(stage: Stage) -> None:
    """On the clock of who asks; an ISO time means the same."""

    async def asked() -> Any:
        to_ms = (await json_of(stage.url, "/orion/v1/timeline"))["to_ms"]
        here = datetime.fromtimestamp(to_ms // 1_000, UTC) + timedelta(hours=1)
        answer = await got(stage.url, f"/orion/v1/past?at={here:%H:%M:%S}&tz=60")
        return (to_ms, msgspec.json.decode(answer.body)) if answer.status == 200 else None

    to_ms, view = await eventually(asked, "the log is older than a second")
    assert (view["live"], view["at_ms"]) == (False, to_ms // 1_000 * 1_000)
    iso = datetime.fromtimestamp(to_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    same = await json_of(stage.url, f"/orion/v1/past?at={iso}")
    assert same["position"] == view["position"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orion/v1/past", 400), ("/orion/v1/past?at=soon", 400), ("/orion/v1/past?at=12:00&tz=x", 400),
        ("/orion/v1/past?at=999999999", 404), ("/orion/v1/past?at=0", 404),
        ("/orion/v1/past?at=2020-01-01T00:00Z", 404), ("/orion/v1/past?at=2090-01-01T00:00Z", 404),
        ("/orion/v1/why", 400), ("/orion/v1/why?number=-1", 400), ("/orion/v1/why?number=1", 404),
        ("/orion/v1/why?number=99999999", 404), ("/orion/v1/day", 400), ("/orion/v1/day?node=nobody", 404),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_one_sentence(stage: Stage, path: str, status: int) -> None:
    """In Ollama's form, as all of ours."""
    answer = await got(stage.url, path)
    assert answer.status == status
    assert len(answer.error) > 10
