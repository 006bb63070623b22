"""The calls of HTTP that ask a model: what each path asks for, and how its answer is written. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec import Struct, structs

from orion_streams.gateway import (
    asks,
    messages_requests,
    native_requests,
    openai_requests,
    responses_requests,
)
from orion_streams.gateway.answers import Dialect, HttpAnswer, Metrics
from orion_streams.gateway.asks import Ask
from orion_streams.gateway.messages_answers import MessagesDialect, messages_error
from orion_streams.gateway.native_answers import NativeDialect, embedded, embedded_one, native_error
from orion_streams.gateway.openai_answers import OpenAIDialect, embedding_list, openai_error
from orion_streams.gateway.refusal import Refusal
from orion_streams.gateway.responses_answers import ResponsesDialect

Vectors = list[list[float]]


class Call(Struct, frozen=True):
    """What a body asks for, and who writes the answer: a dialect, or for vectors a function."""

    ask: Ask
    dialect: Dialect
    of_vectors: Callable[[Vectors, Metrics], HttpAnswer] | None = None


class Origin(Struct, frozen=True):
    """Of what an answer's ids and times are made: a number that no other call has, and the seconds since
    1970."""

    number: str
    now_s: int


def generate(raw: bytes, _: Origin) -> Call:
    """Read `/api/generate`."""
    ask = asks.generate_ask(native_requests.generate_request(native_requests.read(raw)))
    return Call(ask, NativeDialect("generate", ask.model))


def chat(raw: bytes, _: Origin) -> Call:
    """Read `/api/chat`."""
    ask = asks.chat_ask(native_requests.chat_request(native_requests.read(raw)))
    return Call(ask, NativeDialect("chat", ask.model))


def embed(raw: bytes, _: Origin) -> Call:
    """Read `/api/embed`."""
    ask = asks.embed_ask(native_requests.embed_request(native_requests.read(raw)))
    return Call(ask, NativeDialect("generate", ask.model), partial(embedded, ask.model))


def embeddings(raw: bytes, _: Origin) -> Call:
    """Read the older `/api/embeddings`: one prompt, one vector."""
    ask = asks.embedding_ask(native_requests.embedding_request(native_requests.read(raw)))
    return Call(ask, NativeDialect("generate", ask.model), lambda rows, _: embedded_one(first_of(rows)))


def first_of(rows: Vectors) -> list[float]:
    """Return the first vector; none without one."""
    return rows[0] if rows else []


def v1_chat(raw: bytes, origin: Origin) -> Call:
    """Read `/v1/chat/completions`."""
    body, usage = openai_requests.chat_request(raw)
    ask = asks.chat_ask(body)
    answer_id = f"chatcmpl-{origin.number}"
    return Call(ask, OpenAIDialect(ask.model, answer_id, origin.now_s, chat=True, usage=usage))


def v1_completions(raw: bytes, origin: Origin) -> Call:
    """Read `/v1/completions`."""
    body, usage = openai_requests.completion_request(raw)
    ask = asks.generate_ask(body, with_context=False)
    answer_id = f"cmpl-{origin.number}"
    return Call(ask, OpenAIDialect(ask.model, answer_id, origin.now_s, chat=False, usage=usage))


def v1_embeddings(raw: bytes, origin: Origin) -> Call:
    """Read `/v1/embeddings`."""
    body, packed = openai_requests.embeddings_request(raw)
    ask = asks.embed_ask(body)

    def written(rows: Vectors, took: Metrics) -> HttpAnswer:
        return embedding_list(ask.model, rows, took.prompt_eval_count, packed=packed)

    dialect = OpenAIDialect(ask.model, f"embd-{origin.number}", origin.now_s, chat=False, usage=False)
    return Call(ask, dialect, written)


def v1_responses(raw: bytes, origin: Origin) -> Call:
    """Read `/v1/responses`."""
    native, body = responses_requests.responses_request(raw)
    return Call(asks.chat_ask(native), ResponsesDialect(body, origin.number, origin.now_s))


def v1_messages(raw: bytes, origin: Origin) -> Call:
    """Read `/v1/messages`."""
    native = messages_requests.messages_request(raw)
    ask = structs.replace(asks.chat_ask(native), may_not_think=True)  # its clients ask so of any model
    tokens = messages_requests.estimated_tokens(native["messages"], native["tools"])
    return Call(ask, MessagesDialect(ask.model, origin.number, tokens))


CALLS: dict[str, Callable[[bytes, Origin], Call]] = {
    "/api/generate": generate,
    "/api/chat": chat,
    "/api/embed": embed,
    "/api/embeddings": embeddings,
    "/v1/chat/completions": v1_chat,
    "/v1/completions": v1_completions,
    "/v1/embeddings": v1_embeddings,
    "/v1/responses": v1_responses,
    "/v1/messages": v1_messages,
}
"""By path; all raise Refusal."""
LEAST_SERVER_ERROR = 500
NOT_HERE = {
    "/api/create": "models are made on the nodes: ollama create",
    "/api/copy": "models are copied on the nodes: ollama cp",
    "/api/push": "nothing leaves this house",
    "/api/blobs/{digest}": "models are made on the nodes: ollama create",
    "/api/me": "there is no account here: everything is local",
    "/api/signout": "there is no account here: everything is local",
    "/api/experimental/web_search": "nothing leaves this house",
    "/api/experimental/web_fetch": "nothing leaves this house",
    "/v1/audio/transcriptions": "no node here hears",
    "/v1/audio/speech": "no node here speaks",
    "/v1/images/generations": "no node here paints",
    "/v1/images/edits": "no node here paints",
}
"""What Ollama has and the grid does not, and why: 501."""


def refused(path: str, refusal: Refusal, number: str) -> HttpAnswer:
    """Write a refusal in the form of the path's API. What the grid has tried in vain, OpenAI's and
    Anthropic's clients are told not to send again by themselves."""
    if path.startswith("/v1/messages"):
        answer = messages_error(refusal, f"req_{number}")
    else:
        answer = openai_error(refusal) if path.startswith("/v1/") else native_error(refusal)
    if refusal.status < LEAST_SERVER_ERROR or refusal.retry_after_s:
        return answer
    return structs.replace(answer, headers={**answer.headers, "x-should-retry": "false"})
