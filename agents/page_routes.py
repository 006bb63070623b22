"""The page's routes: its files, its session, now, and the past."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from aiohttp import web

from orion_streams.agents.gateway_http import KNOCK, body_of, caller_of, response_of
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.key_file import KeyFile
from orion_streams.agents.page_files import INDEX, PageFiles
from orion_streams.agents.page_history import History
from orion_streams.agents.page_live import Live
from orion_streams.agents.past_messages import Question
from orion_streams.agents.past_process import PastProcess
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.config import Config
from orion_streams.gateway import page_queue, page_session
from orion_streams.gateway.access import wants_page
from orion_streams.gateway.answers import HttpAnswer
from orion_streams.gateway.keys import Key
from orion_streams.gateway.page_day import Day, with_ticks
from orion_streams.gateway.page_moment import MOST_DIGITS, moment, offset_of
from orion_streams.gateway.refusal import Refusal

RUNNING = "Ollama is running"
UNKNOWN = "This key is not known: it was removed, or mistyped. `orion key list` shows those there are."


class Page:
    """Handlers of the page, and what works behind them."""

    def __init__(
        self, config: Config, follower: GridFollower, listener: RecentListener, key_file: KeyFile
    ) -> None:
        self._follower, self._listener, self._key_file = follower, listener, key_file
        self._aliases = dict(config.gateway.aliases)
        self._files = PageFiles()
        self.live = Live(follower, listener, self._aliases)
        self.past_worker = PastProcess(config.redis.url, config.prefix)
        self.history = History(self.past_worker, follower, listener, self.live)

    # the page

    async def root(self, http: web.Request) -> web.Response:
        """Answer a browser with the page, and programs as Ollama does to who looks whether it is there."""
        if wants_page(http.headers.get("Accept", "")):
            return self._files.answer(http, INDEX)
        return web.Response(text=RUNNING)

    async def file(self, http: web.Request) -> web.Response:
        """Answer with one of the page's files."""
        return self._files.answer(http, http.match_info["name"])

    # now and then

    async def stream(self, http: web.Request) -> web.StreamResponse:
        """Answer `/orion/v1/live`, for as long as the key is known."""
        self.history.ask()
        key = http[KNOCK].key
        still = partial(is_kept, self._key_file, key) if key is not None else always
        return await self.live.stream(http, caller_of(http), still)

    async def past(self, http: web.Request) -> web.Response:
        """Answer `/orion/v1/past`."""
        question = self._at(http, Question(op="past", caller=caller_of(http), aliases=self._aliases))
        if question.position is None and question.ms is None:
            raise Refusal(400, "at: expected a position or a time")
        return as_json(await self.past_worker.ask(question, http.remote or ""))

    async def timeline(self, _: web.Request) -> web.Response:
        """Answer `/orion/v1/timeline`."""
        self.history.ask()
        return as_json(msgspec.json.encode(self.history.timeline()))

    async def why(self, http: web.Request) -> web.Response:
        """Answer `/orion/v1/why`: from the table if it knows, else from the log."""
        text, caller = http.query.get("number", ""), caller_of(http)
        if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
            raise Refusal(400, "number: expected the position at which the request was accepted")
        question = self._at(http, Question(op="why", number=int(text), caller=caller))
        if question.position is None and question.ms is None:
            found = page_queue.why(self._follower.grid, self._listener.recent, int(text), caller)
            if found is not None:
                return as_json(msgspec.json.encode(found))
        return as_json(await self.past_worker.ask(question, http.remote or ""))

    async def day(self, http: web.Request) -> web.Response:
        """Answer `/orion/v1/day`."""
        node = http.query.get("node", "")
        if not node:
            raise Refusal(400, "node: expected the name of a node")
        self.history.ask()
        question = self._at(http, Question(op="day", node=node))
        day = msgspec.json.decode(await self.past_worker.ask(question, http.remote or ""), type=Day)
        return as_json(msgspec.json.encode(with_ticks(day, self._listener.recent.ticks.ticks)))

    def _at(self, http: web.Request, question: Question) -> Question:
        """Return the question at the moment that is asked for, if any. Raise Refusal 400."""
        text = http.query.get("at", "")
        if not text:
            return question
        tz = http.query.get("tz", "")
        meant = moment(text, tz, self._follower.grid.server_ms)
        return msgspec.structs.replace(question, position=meant.position, ms=meant.ms, tz=offset_of(tz))


def is_kept(key_file: KeyFile, key: Key) -> bool:
    """Whether a key is still as it was."""
    return key in key_file.current().table.keys


def always() -> bool:
    """Whether who needs no key may go on looking."""
    return True


class Session:
    """The handlers that give and take the page's cookie. `find`: the key of a token."""

    def __init__(self, key_file: KeyFile, find: Callable[[str], Key | None]) -> None:
        self._key_file, self._find = key_file, find

    async def begin(self, http: web.Request) -> web.Response:
        """Answer `POST /orion/v1/session`: a key becomes a cookie."""
        raw = await body_of(http)
        if len(raw) > page_session.MAX_BYTES:
            raise Refusal(413, f"the body is larger than {page_session.MAX_BYTES} bytes")
        key = self._find(page_session.given(raw))
        if key is None:
            raise Refusal(401, UNKNOWN)
        return with_cookie(http, page_session.proof(self._key_file.current().table, key))

    async def end(self, http: web.Request) -> web.Response:
        """Answer `DELETE /orion/v1/session`: the browser forgets it."""
        return with_cookie(http, "")


def with_cookie(http: web.Request, value: str) -> web.Response:
    """Answer with the cookie, and nothing else."""
    is_secure = http.secure or http.headers.get("X-Forwarded-Proto", "").lower() == "https"
    cookie = page_session.set_cookie(value, secure=is_secure)
    return web.Response(status=204, headers={"Set-Cookie": cookie, "Cache-Control": "no-store"})


def as_json(raw: bytes) -> web.Response:
    """Answer with JSON that is nobody else's."""
    answer = HttpAnswer(200, raw, "application/json")
    return response_of(answer, {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
