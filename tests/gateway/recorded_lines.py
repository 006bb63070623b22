"""Recorded answers of a real Ollama as the lines they were made of, and what the gateway makes of them."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from orion_streams.gateway import openai_requests
from orion_streams.gateway.answers import Dialect, HttpAnswer, Line, Metrics, json_answer
from orion_streams.gateway.http_calls import refused
from orion_streams.gateway.listings import v1_row
from orion_streams.gateway.messages_answers import MessagesDialect
from orion_streams.gateway.messages_requests import messages_request
from orion_streams.gateway.native_answers import NativeDialect, native_error
from orion_streams.gateway.openai_answers import OpenAIDialect, openai_error
from orion_streams.gateway.refusal import Refusal
from orion_streams.gateway.responses_answers import ResponsesDialect
from orion_streams.gateway.responses_requests import responses_request
from tests.simulated_ollama.recorded_contract import BodyLine, Exchange

MISSING = "nothing"
_NATIVE = {"/api/generate": "generate", "/api/chat": "chat"}


def raw_body(exchange: Exchange) -> bytes:
    """The body as it was sent."""
    body = exchange.request.body
    return body.encode() if isinstance(body, str) else b"" if body is None else msgspec.json.encode(body)


def observed(exchange: Exchange, answer: HttpAnswer) -> Exchange:
    """An answer as an exchange."""
    kind = {"Content-Type": answer.content_type}
    body = [BodyLine(0, answer.body.decode())]
    return msgspec.structs.replace(exchange, status=answer.status, headers=kind, body=body)


def nanoseconds(timestamp: str) -> int:
    """A time in nanoseconds since 1970, which datetime would round to microseconds."""
    whole, _, fraction = timestamp.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)


def native_line(shown: dict[str, Any]) -> Line:
    """What a line of the native API says."""
    message = shown.get("message", {"content": shown.get("response"), **shown})
    return Line(
        nanoseconds(shown["created_at"]),
        text=message["content"],
        thinking=message.get("thinking", ""),
        tool_calls=message.get("tool_calls", []),
        logprobs=shown.get("logprobs", []),
        done=shown["done"],
        done_reason=shown.get("done_reason", ""),
        context=shown.get("context"),
        metrics=msgspec.convert(shown, Metrics),
    )


def native_answer(exchange: Exchange) -> Exchange:
    """A recorded answer of generate or chat, written again."""
    if exchange.status != 200:
        return observed(exchange, native_error(Refusal(exchange.status or 0, told(exchange)["error"])))
    dialect = NativeDialect(_NATIVE[exchange.request.path], exchange.request.body["model"])  # type: ignore[arg-type]
    if "ndjson" not in exchange.headers["Content-Type"]:
        return observed(exchange, dialect.whole(native_line(told(exchange))))
    written = b"".join(dialect.part(native_line(json.loads(line.text))) for line in exchange.body)
    return observed(exchange, HttpAnswer(200, written, dialect.stream_type))


def told(exchange: Exchange) -> dict[str, Any]:
    """The only JSON object of an answer."""
    value: dict[str, Any] = json.loads(exchange.text)
    return value


def events(text: str) -> list[Any]:
    """The events of a stream, the last of which is no JSON."""
    data = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    return [json.loads(event) if event.startswith("{") else event for event in data]


def v1_answer(exchange: Exchange) -> Exchange:
    """What the gateway answers to a recorded request under /v1, when the model says what it then said."""
    path = exchange.request.path
    if path.startswith("/v1/models"):
        return observed(exchange, _models(told(exchange)))
    try:
        dialect = _DIALECTS[path](exchange)
    except Refusal as refusal:
        return observed(exchange, openai_error(refusal))
    if exchange.status != 200:
        said = Refusal(exchange.status or 0, told(exchange)["error"]["message"])
        return observed(exchange, refused(path, said, "1"))
    if "event-stream" not in exchange.headers["Content-Type"]:
        return observed(exchange, dialect.whole(_said(told(exchange))))
    chunks = [event for event in events(exchange.text) if isinstance(event, dict)]
    written = b"".join(dialect.part(line) for line in _streamed(chunks))
    return observed(exchange, HttpAnswer(200, written, dialect.stream_type))


def _models(recorded: dict[str, Any]) -> HttpAnswer:
    rows = [v1_row(entry["id"]) for entry in recorded.get("data", [recorded])]
    shown = {"object": "list", "data": rows} if "data" in recorded else rows[0]
    return json_answer(shown, charset=False, newline=True)


def _chat(exchange: Exchange) -> Dialect:
    body, usage = openai_requests.chat_request(raw_body(exchange))
    return OpenAIDialect(body["model"], *_made_up(exchange), chat=True, usage=usage)


def _completion(exchange: Exchange) -> Dialect:
    body, usage = openai_requests.completion_request(raw_body(exchange))
    return OpenAIDialect(body["model"], *_made_up(exchange), chat=False, usage=usage)


def _embeddings(exchange: Exchange) -> Dialect:
    body, _ = openai_requests.embeddings_request(raw_body(exchange))
    return OpenAIDialect(body["model"], "", 0, chat=False, usage=False)


def _responses(exchange: Exchange) -> Dialect:
    _, asked = responses_request(raw_body(exchange))
    recorded = told(exchange)
    number = recorded["id"].removeprefix("resp_")
    return ResponsesDialect(asked, number, recorded["created_at"])


def _messages(exchange: Exchange) -> Dialect:
    body = messages_request(raw_body(exchange))
    return MessagesDialect(body["model"], told(exchange)["id"].removeprefix("msg_"))


_DIALECTS: dict[str, Callable[[Exchange], Dialect]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}


def _made_up(exchange: Exchange) -> tuple[str, int]:
    """The id and the time of the recorded answer, if it has any."""
    recorded = next((event for event in events(exchange.text) if isinstance(event, dict)), {})
    return recorded.get("id", ""), recorded.get("created", 0)


def _said(answer: dict[str, Any]) -> Line:
    """What a whole answer says."""
    usage = answer["usage"]
    counted = Metrics(
        prompt_eval_count=usage.get("prompt_tokens", usage.get("input_tokens")),
        eval_count=usage.get("completion_tokens", usage.get("output_tokens")),
    )
    choice = answer.get("choices", [{}])[0]
    blocks = answer.get("content") or answer.get("output", [{}])[0].get("content") or [{}]
    text = choice.get("text", choice.get("message", blocks[0]).get("content", blocks[0].get("text")))
    reason = "length" if "max_tokens" in answer.values() else choice.get("finish_reason", "stop")
    created_s = answer.get("completed_at", 0)
    return Line(created_s * 10**9, text=text, done=True, done_reason=reason, metrics=counted)


def _streamed(chunks: list[dict[str, Any]]) -> list[Line]:
    lines = []
    usage = chunks[-1].get("usage", {})
    for chunk in chunks:
        for choice in chunk["choices"]:
            text = choice.get("text", choice.get("delta", {}).get("content"))
            reason = choice["finish_reason"] or ""
            lines.append(Line(0, text=text, done=bool(reason), done_reason=reason))
    lines[-1].metrics = Metrics(
        prompt_eval_count=usage.get("prompt_tokens", 0), eval_count=usage.get("completion_tokens", 0)
    )
    return lines


def fields(value: Any, place: str = "") -> dict[str, Any]:
    """The leaves of a JSON value and its empty objects and lists, by their place."""
    match value:
        case dict() if value:
            inner = {f"{place}.{key}": member for key, member in value.items()}
        case list() if value:
            inner = {f"{place}[{at}]": member for at, member in enumerate(value)}
        case _:
            return {place: value}
    return {name: leaf for at, member in inner.items() for name, leaf in fields(member, at).items()}


def differing(recorded: Exchange, got: Exchange) -> dict[str, tuple[Any, Any]]:
    """The fields of an answer that are not as recorded, and how the answer is sent: its status, type, the
    order of its fields and its last byte."""
    pairs: dict[str, tuple[Any, Any]] = {
        "status": (recorded.status, got.status),
        "type": (recorded.headers["Content-Type"], got.headers["Content-Type"]),
        "last byte": (recorded.text[-1:], got.text[-1:]),
    }
    wanted, made = fields(events(recorded.text)), fields(events(got.text))
    pairs |= {at: (wanted.get(at, MISSING), made.get(at, MISSING)) for at in (*wanted, *made)}
    common = [at for at in wanted if at in made]
    pairs["order"] = (common, [at for at in made if at in wanted])
    return {place: (was, is_now) for place, (was, is_now) in pairs.items() if was != is_now}
