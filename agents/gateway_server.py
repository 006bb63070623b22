"""The gateway's HTTP server: who is let in, the routes, and the process."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import structs

from orion_streams.agents.gateway import Gateway
from orion_streams.agents.gateway_connections import Connections, cut
from orion_streams.agents.gateway_disk import Disks
from orion_streams.agents.gateway_http import (
    CALLER,
    KNOCK,
    away,
    deliver,
    expected,
    failed,
    response_of,
    too_large,
)
from orion_streams.agents.gateway_pages import Pages
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.isolated import Isolated
from orion_streams.agents.key_file import KeyFile, change, path_of
from orion_streams.agents.metrics_keeper import MetricsKeeper, file_of
from orion_streams.agents.metrics_page import MetricsPage
from orion_streams.agents.page_routes import Page, Session
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.client.calls import RequestError
from orion_streams.config import Config
from orion_streams.errors import BackendError, ConfigError
from orion_streams.gateway import access, http_calls, keys, page_session
from orion_streams.gateway.access import Door, Knock
from orion_streams.gateway.failures import RETRY_AFTER_S
from orion_streams.gateway.keys import Key
from orion_streams.gateway.refusal import Refusal
from orion_streams.protocol.public_row import GATEWAY_SERVER
from orion_streams.runtime.connection import connect

log = logging.getLogger("orion.gateway")

PLAIN = {"Content-Type": "text/plain"}
NO_KEYS = "No key counts now: the file that holds them cannot be read, and the gateway's log says why."
READY_S, STOP_S, IDLE_S, LINGER_S = 10.0, 5.0, 75.0, 10.0
"""How long a router may be silent before it is said that the gateway is there all the same; for open
answers when it stops; for a connection without a request; for the rest of a body that nobody reads."""


class Guard:
    """Lets in who may ask, and writes refusals in the form of the API."""

    def __init__(self, config: Config, key_file: KeyFile, insecure: bool) -> None:
        rules = config.gateway
        self._max_body_bytes, self._key_file = rules.max_body_bytes, key_file
        self._door = Door(
            rules=rules, bound=rules.place.host, machine=socket.gethostname(), insecure=insecure
        )

    async def admit(self, http: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may ask; write refusals in the form of the API."""
        knock = http[KNOCK] = self._knock(http)
        if http.method == "OPTIONS":
            allowed = access.preflight(knock, self._door)
            if isinstance(allowed, dict):
                return web.Response(status=204, headers=allowed)
            return denied(http, allowed)
        caller = access.admit(knock, self._door)
        if isinstance(caller, access.Denial):
            if knock.token and self._key_file.current().fault:
                caller = structs.replace(caller, message=NO_KEYS)
            return denied(http, caller)
        http[CALLER] = caller
        try:
            return await handler(http)
        except Refusal as refusal:
            return refused(http, refusal)
        except web.HTTPRequestEntityTooLarge:
            return refused(http, too_large(self._max_body_bytes))
        except web.HTTPNotFound:
            return web.Response(status=404, body=b"404 page not found", headers=PLAIN)
        except web.HTTPMethodNotAllowed as error:
            headers = {**PLAIN, "Allow": ", ".join(sorted(error.allowed_methods))}
            return web.Response(status=405, body=b"405 method not allowed", headers=headers)
        except RequestError as error:
            return refused(http, Refusal(503, str(error), retry_after_s=RETRY_AFTER_S))
        except BackendError as error:
            return refused(http, away(error))
        except (ConnectionError, web.HTTPException):
            raise
        except Exception as error:
            return refused(http, failed(http, error))

    def _knock(self, http: web.Request) -> Knock:
        headers = http.headers
        token, by_cookie = access.presented(headers), None
        if not token and (cookie := headers.get("Cookie")):
            by_cookie = page_session.key_of(self._key_file.current().table, cookie)
        return Knock(
            peer=http.remote or "",
            method=http.method,
            path=http.path,
            host=headers.get("Host", ""),
            origin=headers.get("Origin", ""),
            token=token,
            key=by_cookie or self.key_of(token),
            forwarded=access.is_forwarded(headers),
            by_cookie=by_cookie is not None,
            accept=headers.get("Accept", ""),
        )

    def key_of(self, token: str) -> Key | None:
        """Return the key of a token. One that looks like ours may have been made just now."""
        key = keys.find(self._key_file.current().table, token) if token else None
        if key is None and token.startswith(keys.TOKEN_PREFIX):
            key = keys.find(self._key_file.current(at_once=True).table, token)
        return key

    async def sign(self, http: web.Request, response: web.StreamResponse) -> None:
        """Add to every answer what it is, and what a page may see of it."""
        knock = http.get(KNOCK) or self._knock(http)  # an Expect that is not understood never came in
        response.headers["Server"] = GATEWAY_SERVER
        response.headers.update(access.page_headers(knock, self._door))


def application(
    gateway: Gateway, guard: Guard, connections: Connections, metrics: MetricsPage, page: Page
) -> web.Application:
    """Return the aiohttp application."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        connections.asked(request)
        try:
            response = await guard.admit(request, handler)
            await deliver(request, response)
        except ConnectionError as error:
            log.debug("%s is gone: %s", request.remote, error)
            cut(request.transport)
            return web.Response()  # nobody gets it
        return response

    pages, limit = Pages(gateway), gateway.config.gateway.max_body_bytes
    app = web.Application(middlewares=[guarded], client_max_size=limit)
    session = Session(gateway.key_file, guard.key_of)
    both: dict[str, Handler] = {"/": page.root, "/api/version": pages.version, "/api/tags": pages.tags}
    gets: dict[str, Handler] = {
        "/api/ps": pages.ps,
        "/v1/models": pages.v1_models,
        "/v1/models/{model:.+}": pages.v1_model,
        "/orion/v1/state": pages.state,
        "/orion/v1/health": pages.health,
        "/orion/v1/requests/{id}": pages.request,
        "/orion/page/{name}": page.file,
        "/orion/v1/live": page.stream,
        "/orion/v1/past": page.past,
        "/orion/v1/timeline": page.timeline,
        "/orion/v1/why": page.why,
        "/orion/v1/day": page.day,
        "/metrics": metrics.page,
    }
    posts: dict[str, Handler] = dict.fromkeys(http_calls.CALLS, gateway.ask)
    posts |= {"/api/show": pages.show, "/v1/messages/count_tokens": pages.count_tokens}
    for path, handler in (both | gets).items():
        app.router.add_get(path, handler, allow_head=path in both)
    for path, handler in posts.items():
        app.router.add_post(path, handler, expect_handler=expected)
    disks = Disks(gateway)
    app.router.add_post("/api/pull", disks.pull, expect_handler=expected)
    app.router.add_delete("/api/delete", disks.delete, expect_handler=expected)
    app.router.add_post(access.SESSION, session.begin)
    app.router.add_delete(access.SESSION, session.end)
    for path in http_calls.NOT_HERE:
        app.router.add_route("*", path, pages.elsewhere)
    app.on_response_prepare.append(guard.sign)
    return app


def refused(http: web.Request, refusal: Refusal) -> web.Response:
    """Write a refusal in the form of the path's API."""
    return response_of(http_calls.refused(http.path, refusal, secrets.token_hex(12)))


def denied(http: web.Request, denial: access.Denial) -> web.Response:
    """Write why somebody may not ask."""
    response = refused(http, Refusal(denial.status, denial.message))
    response.headers.update(denial.headers)
    return response


async def run(config: Config, *, insecure: bool, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve until cancelled. `port`: another one than in streams.toml; 0: a free one. `ready` is called
    with the URL. Raise OSError if the place is taken."""
    redis = connect(config.redis.url)
    metrics, listener = MetricsKeeper(file_of(config), config.prefix), RecentListener()
    counting = Isolated("/metrics", metrics)
    listeners = (counting, Isolated("the page's last minutes", listener))
    follower = GridFollower(redis, config.prefix, listeners=listeners)
    key_file = KeyFile(path_of(config))
    page = Page(config, follower, listener, key_file)
    with_secret(key_file.path)
    life = f"{socket.gethostname()}.{secrets.token_hex(4)}"
    gateway = Gateway(config, follower, key_file, life)
    guard = Guard(config, key_file, insecure)
    connections = Connections(config.gateway.max_connections)
    app = application(gateway, guard, connections, MetricsPage(follower, metrics, counting), page)
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=STOP_S,
        keepalive_timeout=IDLE_S,
        lingering_time=LINGER_S,
    )
    await runner.setup()
    connections.server = runner.server
    place, loop = config.gateway.place, asyncio.get_running_loop()
    server = await loop.create_server(
        connections.accept, place.host, place.port if port is None else port, reuse_address=True
    )
    works = (
        follower.run,
        gateway.keep_guests_for_ever,
        connections.sweep,
        gateway.cancel_earlier,
        metrics.keep,
        page.live.run,
        page.history.run,
    )
    async with AsyncExitStack() as ends:  # the last one first; each, also if one before it was cut short
        ends.push_async_callback(redis.aclose)
        ends.push_async_callback(page.past_worker.close)
        ends.push_async_callback(gateway.close)
        ends.callback(metrics.save)
        ends.push_async_callback(runner.cleanup)
        ends.push_async_callback(gateway.stop)
        ends.callback(page.live.stop)
        ends.callback(server.close)
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work())
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    await follower.heard()
            ready(url_of(server))
            await asyncio.Event().wait()


def with_secret(path: Path) -> None:
    """Make the file of the keys where there is none, so that sessions have the same names after a
    restart."""
    try:
        change(path, lambda table: table)
    except ConfigError as error:
        log.warning("%s: conversations get other names at each start", error)


def url_of(server: asyncio.Server) -> str:
    """Return where a server listens, as clients on this machine reach it."""
    host, port = server.sockets[0].getsockname()[:2]
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound, only recognised
    host = everywhere.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
