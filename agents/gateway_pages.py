"""What the gateway answers by itself: from the folded table, with every node busy or away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from orion_streams.agents.gateway import Gateway
from orion_streams.agents.gateway_http import CALLER, body_of, caller_of, response_of
from orion_streams.gateway import grid_state, http_calls, listings, messages_requests
from orion_streams.gateway.answers import HttpAnswer, json_answer
from orion_streams.gateway.messages_answers import counted_tokens
from orion_streams.gateway.native_requests import named_request, read
from orion_streams.gateway.refusal import Refusal, not_found
from orion_streams.gateway.request_status import request_status


class Pages:
    """Handlers that ask no model."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.follower = gateway, gateway.follower
        self._aliases = gateway.config.gateway.aliases

    async def version(self, _: web.Request) -> web.Response:
        """Answer `/api/version`."""
        return response_of(json_answer(listings.version(self.follower.folded)))

    async def tags(self, _: web.Request) -> web.Response:
        """Answer `/api/tags`."""
        return self._listed(lambda: listings.tags(self.follower.folded, self._aliases))

    async def ps(self, _: web.Request) -> web.Response:
        """Answer `/api/ps`: also to who has just loaded a model."""
        await self.follower.fresh()
        return self._listed(lambda: listings.ps(self.follower.grid))

    async def show(self, http: web.Request) -> web.Response:
        """Answer `/api/show`."""
        name = named_request(read(await body_of(http)), "api.ShowRequest")
        if not name:
            raise Refusal(400, "model is required")
        return self._listed(lambda: self._shown(name))

    def _shown(self, name: str) -> dict[str, Any]:
        found = listings.show(self.follower.folded, name, self._aliases)
        if found is None:
            raise not_found(name)
        return found

    async def v1_models(self, _: web.Request) -> web.Response:
        """Answer `/v1/models`."""
        return self._listed(lambda: listings.v1_models(self.follower.folded, self._aliases), v1=True)

    async def v1_model(self, http: web.Request) -> web.Response:
        """Answer `/v1/models/NAME`."""
        name = http.match_info["model"]
        found = listings.v1_model(self.follower.folded, name, self._aliases)
        if found is None:
            raise not_found(name)
        return self._listed(lambda: found, v1=True)

    def _listed(self, value: Callable[[], dict[str, Any]], *, v1: bool = False) -> web.Response:
        """Answer from the table, unless no router keeps it up to date."""
        self.gateway.check_router()
        return response_of(json_answer(value(), charset=not v1, newline=v1))

    async def count_tokens(self, http: web.Request) -> web.Response:
        """Answer `/v1/messages/count_tokens`."""
        return response_of(counted_tokens(messages_requests.count_tokens(await body_of(http))))

    async def state(self, http: web.Request) -> web.Response:
        """Answer `/orion/v1/state`."""
        whole = grid_state.state(self.follower.grid, self.follower.silent_ms)
        return response_of(plain_json(grid_state.as_told_to(whole, caller_of(http))))

    async def health(self, _: web.Request) -> web.Response:
        """Answer `/orion/v1/health`: 503 if no request would be answered now."""
        found = grid_state.health(self.follower.grid, self.follower.silent_ms)
        return response_of(plain_json(found, 503 if found.status == "down" else 200))

    async def request(self, http: web.Request) -> web.Response:
        """Answer `/orion/v1/requests/ID`, of the caller's own."""
        name = http.match_info["id"]
        await self.follower.fresh()  # its answer may have come just now
        found = request_status(self.follower.grid, http[CALLER].client, name)
        if found is None:
            raise Refusal(404, f"no request {name!r} of yours is known: it is remembered for a while only")
        return response_of(plain_json(found))

    async def elsewhere(self, http: web.Request) -> web.Response:
        """Answer what Ollama has, and the grid does not."""
        resource = http.match_info.route.resource
        reason = http_calls.NOT_HERE[resource.canonical] if resource is not None else ""
        raise Refusal(501, f"{http.path} is not served here: {reason}")


def plain_json(value: object, status: int = 200) -> HttpAnswer:
    """Return a value of our own as JSON."""
    return HttpAnswer(status, msgspec.json.encode(value), "application/json")
