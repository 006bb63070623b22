"""Recorded exchanges with a real Ollama, how to send them again, and what must come out the same.

Compared are status, content type, the shape of the body (keys in order, JSON types, and the value
of what is fixed, such as error texts), the order of its lines, and how it ended. Not compared are
texts, numbers and times.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import msgspec

TRANSCRIPTS = Path(__file__).parent / "transcripts"

COMPLETE = "complete"
DISCONNECTED = "disconnected"
_CLOSED_EARLY = re.compile(r"client closed after (\d+) lines")

# Keys whose value is part of the contract, where it is no list or object.
# fmt: off
_FIXED = frozenset((
    "error", "message", "type", "param", "code", "object", "role", "done", "status", "format",
    "system_fingerprint", "owned_by", "family", "parameter_size", "quantization_level",
    "context_length", "tool_choice",
))
# fmt: on
# Ways to end well; which one depends on the model.
_WELL_ENDED = frozenset(("stop", "length", "end_turn", "max_tokens"))
_REASONS = frozenset(("done_reason", "finish_reason", "stop_reason"))
# Real numbers, which JSON writes without a fraction when they happen to be whole.
_REAL_NUMBERS = frozenset(("logprob",))
_ABBREVIATED = re.compile(r"word word … \((\d+) characters, 'word ' repeated\)")


class Request(msgspec.Struct, frozen=True):
    """A request; a body that is a string is sent as it is."""

    method: str
    path: str
    body: Any = None


class BodyLine(msgspec.Struct, frozen=True):
    ms: float
    text: str


class Exchange(msgspec.Struct, frozen=True):
    """A request and its answer, recorded or observed. Concurrent ones have both times."""

    name: str
    request: Request
    status: int | None
    end: str
    body: list[BodyLine] = []
    headers: dict[str, str] = {}
    started_ms: float | None = None
    finished_ms: float | None = None

    @property
    def text(self) -> str:
        return "".join(line.text for line in self.body)

    @property
    def closes_after(self) -> int | None:
        """After how many lines the client goes away, if it does."""
        early = _CLOSED_EARLY.fullmatch(self.end)
        return int(early[1]) if early else None


def recorded(file: str, renamed: Mapping[str, str] | None = None) -> list[Exchange]:
    """The exchanges of a transcript, with texts replaced as `renamed` says."""
    raw = (TRANSCRIPTS / f"{file}.json").read_text()
    for old, new in (renamed or {}).items():
        raw = raw.replace(old, new)
    return [_spelled_out(e) for e in msgspec.json.decode(raw, type=list[Exchange])]


def by_name(exchanges: Sequence[Exchange]) -> dict[str, Exchange]:
    return {exchange.name: exchange for exchange in exchanges}


def _spelled_out(exchange: Exchange) -> Exchange:
    """With a long prompt as it was sent, not as it was abbreviated."""
    body = exchange.request.body
    if not isinstance(body, dict) or not isinstance(body.get("prompt"), str):
        return exchange
    short = _ABBREVIATED.fullmatch(body["prompt"])
    if short is None:
        return exchange
    prompt = ("word " * int(short[1]))[: int(short[1])]
    request = msgspec.structs.replace(exchange.request, body={**body, "prompt": prompt})
    return msgspec.structs.replace(exchange, request=request)


async def send(client: httpx.AsyncClient, exchange: Exchange) -> Exchange:
    """Sends the request of a recorded exchange and returns what was observed."""
    request = exchange.request
    content = request.body if isinstance(request.body, str) else None
    sent = None if content is not None else request.body
    loop = asyncio.get_running_loop()
    started = loop.time()
    lines: list[BodyLine] = []
    status, headers, end = None, {}, COMPLETE
    try:
        async with client.stream(request.method, request.path, content=content, json=sent) as response:
            status, headers = response.status_code, dict(response.headers)
            async for line in _lines(response):
                lines.append(BodyLine((loop.time() - started) * 1000, line))
                if len(lines) == exchange.closes_after:
                    end = exchange.end
                    break
    except httpx.RemoteProtocolError:
        end = DISCONNECTED
    return Exchange(
        name=exchange.name,
        request=request,
        status=status,
        end=end,
        body=lines,
        headers=headers,
    )


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """The body line by line, each with its end, as soon as it is there."""
    rest = ""
    async for text in response.aiter_text():
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line + "\n"
    if rest:
        yield rest


Before = Callable[[Exchange], Awaitable[None]]


async def replay(
    client: httpx.AsyncClient, exchanges: Sequence[Exchange], *, scale: float, before: Before
) -> list[Exchange]:
    """Sends all requests in their order, concurrent ones at their recorded offsets times `scale`.

    `before` is awaited before each, and before a concurrent group with its first.
    """
    observed: list[Exchange] = []
    for concurrent, group in groupby(exchanges, _is_concurrent):
        members = list(group)
        if concurrent:
            await before(members[0])
            observed += await _together(client, members, scale)
            continue
        for exchange in members:
            await before(exchange)
            observed.append(await send(client, exchange))
    return observed


async def _together(
    client: httpx.AsyncClient, exchanges: Sequence[Exchange], scale: float
) -> list[Exchange]:
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def at_its_time(exchange: Exchange) -> Exchange:
        due = asyncio.Event()
        loop.call_at(start + (exchange.started_ms or 0) * scale / 1000, due.set)
        await due.wait()
        sent_ms = (loop.time() - start) * 1000
        observed = await send(client, exchange)
        finished_ms = (loop.time() - start) * 1000
        return msgspec.structs.replace(observed, started_ms=sent_ms, finished_ms=finished_ms)

    return list(await asyncio.gather(*(at_its_time(exchange) for exchange in exchanges)))


def differences(expected: Exchange, observed: Exchange) -> list[str]:
    """Everything in which an observed exchange is not as the recorded one; empty when faithful."""
    pairs = {
        "status": (expected.status, observed.status),
        "end": (_end_kind(expected), _end_kind(observed)),
        "content type": (_header(expected, "content-type"), _header(observed, "content-type")),
        "allow": (_header(expected, "allow"), _header(observed, "allow")),
        "body": (_outline(expected), _outline(observed)),
    }
    return [
        f"{expected.name}: {what}: recorded {wanted!r}, observed {got!r}"
        for what, (wanted, got) in pairs.items()
        if wanted != got
    ]


def all_differences(expected: Sequence[Exchange], observed: Sequence[Exchange]) -> list[str]:
    """As `differences`, for whole transcripts.

    Requests of one concurrent group that are the same are interchangeable: which of them is
    served or refused is a matter of chance.
    """
    found = []
    for wanted, got in zip(_canonical(expected), _canonical(observed), strict=True):
        found += differences(wanted, got)
    return found


def _canonical(exchanges: Sequence[Exchange]) -> list[Exchange]:
    ordered: list[Exchange] = []
    for concurrent, group in groupby(exchanges, _is_concurrent):
        members = list(group)
        if concurrent:
            members.sort(key=lambda e: (repr(e.request), e.status or 0))
        ordered += members
    return ordered


def _is_concurrent(exchange: Exchange) -> bool:
    return exchange.started_ms is not None


def _header(exchange: Exchange, name: str) -> str | None:
    return {key.lower(): value for key, value in exchange.headers.items()}.get(name)


def _end_kind(exchange: Exchange) -> str:
    known = exchange.end == COMPLETE or exchange.closes_after is not None
    return exchange.end if known else DISCONNECTED


def _outline(exchange: Exchange) -> list[Any]:
    """The shapes of a body's units in their order, repeated ones once."""
    units = (
        _events(exchange.text)
        if "event-stream" in (_header(exchange, "content-type") or "")
        else exchange.text.splitlines(keepends=True)
    )
    return [shape for shape, _ in groupby(_unit(unit) for unit in units)]


def _events(text: str) -> list[str]:
    return re.findall(r"(?:.*\n)+?\n|.+\n?", text)


def _unit(text: str) -> Any:
    """A line or an event: its frame, and the shape of the JSON in it."""
    prefix = "data: " if text.startswith("data: ") else ""
    content = text.removeprefix(prefix)
    ending = content[len(content.rstrip("\n")) :]
    try:
        value = json.loads(content)
    except ValueError:
        return text
    # An answer names the model as it was asked for.
    model = value.get("model") if isinstance(value, dict) else None
    return (prefix, model, shape(value), ending)


def shape(value: Any, key: str = "") -> Any:
    """What of a JSON value is part of the contract. A list has the set of its members' shapes."""
    match value:
        case dict():
            return [(name, shape(member, name)) for name, member in value.items()]
        case list() if key == "tensors":  # recorded shortened to its first; their types are the model's own
            return [(name, type(member).__name__) for name, member in value[0].items()]
        case list():
            return ("list", sorted({repr(shape(member)) for member in value}))
        case str() if key in _REASONS and value in _WELL_ENDED:
            return "ended well"
        case int() | float() if key in _REAL_NUMBERS:
            return "number"
        case _ if key in _FIXED or key in _REASONS:
            return _fixed(value)
        case _:
            return type(value).__name__


def _fixed(value: Any) -> Any:
    # The recording left out the registry's host in front of a model's full name.
    return value.replace("registry.ollama.ai/", "") if isinstance(value, str) else value
