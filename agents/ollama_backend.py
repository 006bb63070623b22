"""Ollama over HTTP: runs requests, loads models, and lists what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import httpx

from orion_streams.agents.backend import Chunk, DiskFailedError, Listing, PullStep, RunFailedError
from orion_streams.agents.ollama_answers import chunk, embedded
from orion_streams.agents.ollama_blame import refusal
from orion_streams.agents.ollama_http import ANSWER_MAX_BYTES, TooLongError, Transport, whole
from orion_streams.agents.ollama_json import UNREADABLE, an_object, read
from orion_streams.agents.ollama_lists import installed_models, resident_models
from orion_streams.agents.ollama_pull import pull_refusal, pull_step
from orion_streams.agents.ollama_requests import request_body, texts_of
from orion_streams.agents.ollama_show import description
from orion_streams.config import NodeConfig
from orion_streams.protocol import requests_replies
from orion_streams.protocol.agent_entries import (
    InstalledModel,
    ModelDescription,
    ResidentModel,
    WorkHead,
)

EMBEDS_ONLY = "does not support generate"
PIECE_BYTES = 256 * 1024
LIST_S, ASK_S, REMOVE_S = 5.0, 2.0, 60.0
"""So long Ollama may take to list models, to say what one or itself is, and to remove one."""
NAME_MAX = 48


Body = Mapping[str, Any] | None


class Ollama:
    """A node's Ollama. It sets no deadline on a run: whoever consumes the answer does."""

    def __init__(self, node: NodeConfig, num_predict_max: int) -> None:
        self._keep_alive, self._num_predict_max = node.keep_alive, num_predict_max
        self._simulated = node.simulated
        self._http = httpx.AsyncClient(
            base_url=node.ollama,
            timeout=httpx.Timeout(None, connect=5.0, pool=None),
            transport=Transport(),
            trust_env=False,  # the house is air-gapped: no proxy from the environment
        )
        self.engine, self.where = "simulated" if node.simulated else "ollama", node.ollama
        self._identified = False

    async def close(self) -> None:
        await self._http.aclose()

    async def run(
        self, entry: requests_replies.RequestEntry, head: WorkHead
    ) -> AsyncGenerator[Chunk, None]:
        kind = requests_replies.kind_of(entry)
        body = request_body(entry, head, self._keep_alive, self._num_predict_max)
        try:
            if not self._identified:
                await self.identify()
            async with self._post_of(f"/api/{kind}", body) as answer:
                if answer.status_code != 200:
                    raise refusal(answer.status_code, await whole(answer))
                if kind == "embed":
                    yield await self._vectors(entry, answer)
                    return
                async for raw in lines(answer):
                    piece = chunk(raw, with_context=entry.context is not None)
                    yield piece
                    if piece.usage is not None:
                        return  # whatever may come after it
        except httpx.HTTPError as error:
            self._identified = False  # whoever answers next may be another version
            raise broken(error) from error

    async def _vectors(self, entry: requests_replies.RequestEntry, answer: httpx.Response) -> Chunk:
        """Read an answer of vectors. Raises RunFailedError and httpx.HTTPError."""
        try:
            raw = await whole(answer)
        except TooLongError as error:
            what = f"{error}: ask for fewer texts at a time"
            raise RunFailedError("answer_too_large", "request", what) from error
        return embedded(raw, len(texts_of(entry)), entry.dimensions or 0)

    def _post_of(self, path: str, body: bytes) -> AbstractAsyncContextManager[httpx.Response]:
        """Post for a stream. A body with photos goes in pieces: it would hold the event loop."""
        if len(body) <= PIECE_BYTES:
            return self._http.stream("POST", path, content=body)
        length = {"Content-Length": str(len(body))}
        return self._http.stream("POST", path, content=pieces(body), headers=length)

    async def load(self, model: str, options: Mapping[str, int]) -> None:
        """Load by an empty prompt, or by an empty list of texts a model that only embeds."""
        body = {"model": model, "keep_alive": self._keep_alive, "options": options}
        try:
            await self._end("/api/generate", {**body, "stream": False})
        except RunFailedError as error:
            if EMBEDS_ONLY not in str(error):
                raise
            embedded(await self._post("/api/embed", {**body, "input": []}), 0)

    async def unload(self, model: str) -> None:
        """Ask for an unload, which Ollama grants at once and carries out when nobody uses the model."""
        await self._end("/api/generate", {"model": model, "keep_alive": 0, "stream": False})

    async def pull(self, model: str) -> AsyncGenerator[PullStep, None]:
        """Pull a model. One that was begun before goes on where it was."""
        try:
            async with self._http.stream("POST", "/api/pull", json={"model": model}) as answer:
                if answer.status_code != 200:
                    raise pull_refusal(await whole(answer))
                has_ended = False
                async for raw in lines(answer):
                    step = pull_step(raw)
                    has_ended = step.status == "success"
                    yield step
                if not has_ended:
                    raise DiskFailedError("pull_failed", "Ollama ended without `success`")
        except httpx.HTTPError as error:
            raise DiskFailedError("pull_failed", str(broken(error))) from error

    async def remove(self, model: str) -> None:
        """Remove a model from memory, then from the disk: Ollama would keep its runner."""
        with suppress(RunFailedError):  # then its runner ends by itself
            await self.unload(model)
        try:
            status, said = await self._ask("DELETE", "/api/delete", REMOVE_S, {"model": model})
        except httpx.HTTPError as error:
            raise DiskFailedError("remove_failed", str(broken(error))) from error
        if status not in (200, 404):
            raise DiskFailedError("remove_failed", str(refusal(status, said)))

    async def installed(self) -> Listing[InstalledModel]:
        """List what is on disk. Raises httpx.HTTPError or one of UNREADABLE."""
        return installed_models(await self._told("GET", "/api/tags", LIST_S))

    async def resident(self) -> Listing[ResidentModel]:
        """List what is in memory, as Ollama says. Raises httpx.HTTPError or one of UNREADABLE."""
        return resident_models(await self._told("GET", "/api/ps", LIST_S))

    async def described(self, model: InstalledModel) -> ModelDescription:
        """Ask what an installed model is; that loads nothing. Raises httpx.HTTPError or one of
        UNREADABLE."""
        said = await self._told("POST", "/api/show", ASK_S, {"model": model.name})
        return description(said, model)

    async def identify(self) -> None:
        """Ask what answers here: a label, without which an Ollama works as well; one that does not answer
        keeps it. A simulated node must say so itself. Raises RunFailedError if it does not."""
        path, key = ("/sim/sensors", "engine") if self._simulated else ("/api/version", "version")
        try:
            _, raw = await self._ask("GET", path, ASK_S)
            said = read(raw, an_object)[key]
            if not isinstance(said, str):
                raise KeyError(key)
            name = "".join(each for each in said if each.isprintable())[:NAME_MAX]
        except httpx.HTTPError:
            self._identified = False
        except (*UNREADABLE, KeyError) as error:
            self._identified = False
            if self._simulated:
                what = f"{path} answers without `{key}`"
                raise RunFailedError("bad_answer", "node", what) from error
            self.engine = "ollama"
        else:
            self.engine = f"simulated ({name})" if self._simulated else f"ollama {name}"
            self._identified = True

    async def _told(self, method: str, path: str, within_s: float, body: Body = None) -> bytes:
        """Return an answer with status 200. Raises httpx.HTTPError."""
        status, said = await self._ask(method, path, within_s, body)
        if status != 200:
            raise httpx.RemoteProtocolError(f"{path} answers with status {status}")
        return said

    async def _ask(self, method: str, path: str, within_s: float, body: Body = None) -> tuple[int, bytes]:
        """Return status and body of an answer that takes no work, so that it comes whole and soon. Raises
        httpx.HTTPError."""
        try:
            async with (
                asyncio.timeout(within_s),
                self._http.stream(method, path, json=body) as answer,
            ):
                return answer.status_code, await whole(answer)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"{path} does not answer within {within_s:g} s") from error

    async def _end(self, path: str, body: Mapping[str, Any]) -> None:
        """Post for an answer of one line, which must say `done`: a server that is being stopped answers
        without it. Raises RunFailedError."""
        if chunk(await self._post(path, body)).usage is None:
            raise RunFailedError("no_done", "node", "Ollama ended without `done`", True)

    async def _post(self, path: str, body: Mapping[str, Any]) -> bytes:
        try:
            async with self._http.stream("POST", path, json=body) as answer:
                said = await whole(answer)
        except httpx.HTTPError as error:
            raise broken(error) from error
        if answer.status_code != 200:
            raise refusal(answer.status_code, said)
        return said


def broken(error: httpx.HTTPError) -> RunFailedError:
    """Say whether a connection could not be made, or broke in the middle."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RunFailedError("ollama_unreachable", "node", f"Ollama: {error or 'no connection'}")
    if isinstance(error, TooLongError):
        return RunFailedError("bad_answer", "node", f"Ollama gives {error}", breaks_model=True)
    what = f"the connection to Ollama broke: {type(error).__name__}"
    return RunFailedError("stream_cut", "node", what, breaks_model=True)


async def pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a body in pieces of PIECE_BYTES."""
    for at in range(0, len(body), PIECE_BYTES):
        yield body[at : at + PIECE_BYTES]


async def lines(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream, cut at "\n" alone: httpx's own would also cut a text, at U+0085. Raises
    RunFailedError."""
    rest = bytearray()
    async for block in answer.aiter_bytes():
        rest += block
        if b"\n" in block:
            *ended, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in ended:
                if line.strip():
                    yield bytes(line)
        if len(rest) > ANSWER_MAX_BYTES:
            raise RunFailedError("bad_answer", "node", "Ollama's line has no end", breaks_model=True)
    if rest.strip():
        yield bytes(rest)
