"""Serve a simulated node: its routes, middlewares, and `serve`."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from orion_streams.demo.ollama.answer_lines import ConnectionDroppedError
from orion_streams.demo.ollama.control import Control
from orion_streams.demo.ollama.listing import Listing
from orion_streams.demo.ollama.pull import Pulls
from orion_streams.demo.ollama.routes import Routes
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import response_of
from orion_streams.gateway.access import is_bound_to_loopback, is_local
from orion_streams.gateway.native_answers import native_error
from orion_streams.gateway.refusal import Refusal
from orion_streams.simulation.machine_spec import NodeSpec

# Prompts carry images and long documents.
_MAX_BODY_BYTES = 256 * 1024**2
_STOP_S = 5.0


class RunningNode:
    """A node that answers at `url`."""

    def __init__(self, node: Node, url: str) -> None:
        self.spec = node.spec
        self.machine = node.machine
        self.engine = node.engine.name
        self.url = url


@asynccontextmanager
async def serve(spec: NodeSpec) -> AsyncIterator[RunningNode]:
    """Run a node inside this process until the block ends, then stop it.

    Raises RealEngineMissingError, and OSError when the port is taken.
    """
    node = Node(spec)
    runner = web.AppRunner(
        _application(node), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, spec.host, spec.port).start()
        yield RunningNode(node, _url(spec.host, runner.addresses[0][1]))
    finally:
        await runner.cleanup()
        await node.close()


def _url(host: str, port: int) -> str:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound, only recognised
    reachable = everywhere.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _application(node: Node) -> web.Application:
    async def stop_answers(_: web.Application) -> None:
        node.stop_answers()

    app = web.Application(
        middlewares=[_only_local_hosts(node.spec.host), _errors, _tracking(node)],
        client_max_size=_MAX_BODY_BYTES,
    )
    app.add_routes(_routes(node))
    app.on_response_prepare.append(_say_simulated)
    app.on_shutdown.append(stop_answers)
    return app


def _routes(node: Node) -> list[web.RouteDef]:
    listing, models, control = Listing(node), Routes(node), Control(node)
    both: list[tuple[str, Handler]] = [
        ("/", listing.root),
        ("/api/version", listing.version),
        ("/api/tags", listing.tags),
    ]
    gets: list[tuple[str, Handler]] = [
        *both,
        ("/api/ps", listing.ps),
        ("/sim/sensors", control.sensors),
    ]
    posts: list[tuple[str, Handler]] = [
        ("/api/show", listing.show),
        ("/api/pull", Pulls(node).pull),
        ("/api/generate", models.generate),
        ("/api/chat", models.chat),
        ("/api/embed", models.embed),
        ("/api/embeddings", models.embeddings),
        ("/sim/set", control.set),
        ("/sim/fault", control.fault),
    ]
    return [
        *(web.get(path, handler, allow_head=False) for path, handler in gets),
        *(web.head(path, handler) for path, handler in both),
        *(web.post(path, handler) for path, handler in posts),
        web.delete("/api/delete", listing.delete),
    ]


async def _say_simulated(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "simulated-ollama"


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer refusals and unknown paths and methods as the real server does."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return response_of(native_error(refusal))
    except ConnectionDroppedError:
        # The response that is returned never leaves.
        if request.transport is not None:
            request.transport.close()
        return web.Response()
    except web.HTTPNotFound:
        return _plain(404, "404 page not found")
    except web.HTTPMethodNotAllowed as refused:
        allowed = ", ".join(sorted(refused.allowed_methods))
        return _plain(405, "405 method not allowed", Allow=allowed)


def _plain(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(
        status=status, body=text.encode(), headers={**headers, "Content-Type": "text/plain"}
    )


def _tracking(node: Node) -> Middleware:
    """Track the tasks that answer, for a stop."""

    @web.middleware
    async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
        node.track(cast("asyncio.Task[object]", asyncio.current_task()))
        return await handler(request)

    return track


def _only_local_hosts(bound_to: str) -> Middleware:
    """Refuse foreign Host headers while the node listens on loopback only: against DNS rebinding."""
    guarded = is_bound_to_loopback(bound_to)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if guarded and not is_local(request.host, socket.gethostname()):
            return web.Response(status=403)
        return await handler(request)

    return check
