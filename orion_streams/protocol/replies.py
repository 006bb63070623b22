"""A reply: the fields of an entry of `replies:<client>`, and its kinds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

LISTED_MAX = 1_000
"""Requests in a `listed` reply."""


class Reply(Struct, frozen=True, kw_only=True):
    """An entry of `replies:<client>`; a field that has nothing to say is left out."""

    id: Annotated[str, Meta(description="The request's id.")]
    kind: Annotated[
        str, Meta(description="token, restarted, accepted, progress, or one of the terminal kinds below.")
    ]
    model: Annotated[str, Meta(description="Every end: the model by its full name, where it is known.")] = (
        ""
    )
    attempt: Annotated[int, Meta(description="Counts from 1; tokens of two attempts never mix.")] = 0
    seq: Annotated[int, Meta(description="token: counts from 1 within an attempt, gapless.")] = 0
    work_id: Annotated[
        str, Meta(description="token, done: the attempt's fence; it never repeats, a number might.")
    ] = ""
    text: Annotated[str, Meta(description="token: the next piece; done: the whole answer.")] = ""
    thinking: Annotated[
        str, Meta(description="token: the next piece of the model's thoughts; done: all of them.")
    ] = ""
    tool_calls: Annotated[
        str,
        Meta(description="token: JSON list of further calls that a chat asks for; done: of all."),
    ] = ""
    logprobs: Annotated[
        str, Meta(description="token, done: JSON list of the tokens' probabilities, if asked for.")
    ] = ""
    vectors: Annotated[str, Meta(description="done: JSON list of vectors, one per text.")] = ""
    context: Annotated[
        str, Meta(description="done: JSON list of tokens to go on from, if the request has `context`.")
    ] = ""
    node: Annotated[str, Meta(description="Where it ran; token and restarted: where it runs.")] = ""
    engine: Annotated[str, Meta(description="done: what made it, e.g. `ollama 0.24.0`, or a "
    "name beginning with `simulated`.")] = ""  # fmt: skip
    position: Annotated[int, Meta(description="The log position of the decision or end.")] = 0
    prompt_tokens: Annotated[int, Meta(description="done: tokens of the prompt.")] = 0
    tokens: Annotated[int, Meta(description="done: tokens of the answer.")] = 0
    warm: Annotated[
        bool, Meta(description="done: `1` if the model was in memory when it was sent there.")
    ] = False
    load_ms: Annotated[int, Meta(description="done: loading or waiting for the model.")] = 0
    prefill_ms: Annotated[int, Meta(description="done: reading the prompt.")] = 0
    decode_ms: Annotated[int, Meta(description="done: writing the answer.")] = 0
    total_ms: Annotated[int, Meta(description="done: all of it, on the node.")] = 0
    first_token_ms: Annotated[
        int, Meta(description="done: from its begin on the node to the first piece of the answer.")
    ] = 0
    done_reason: Annotated[
        str, Meta(description="done: `stop`, `length`, or after an empty prompt `load` or `unload`.")
    ] = ""
    waiting: Annotated[int, Meta(description="accepted: so many requests go before it.")] = 0
    eta_ms: Annotated[int, Meta(description="accepted: until its first token, as expected.")] = 0
    eta_high_ms: Annotated[int, Meta(description="accepted: the same, when all takes its longest.")] = 0
    waits_for: Annotated[
        str,
        Meta(description="accepted: `queue`, `load`, `heat`, `quiet` or `node`; absent: for nothing."),
    ] = ""
    status: Annotated[
        str, Meta(description="progress: what Ollama does, in its words; `ordered` before it begins.")
    ] = ""
    digest: Annotated[str, Meta(description="progress: which part of the model is being pulled.")] = ""
    total: Annotated[int, Meta(description="progress: bytes of that part.")] = 0
    completed: Annotated[int, Meta(description="progress: bytes of it that are there.")] = 0
    code: Annotated[str, Meta(description="rejected, error: stable, see the table of codes.")] = ""
    message: Annotated[
        str, Meta(description="rejected, error, expired, cancelled: a sentence for a person.")
    ] = ""
    state: Annotated[str, Meta(description="known: done, error, expired or cancelled.")] = ""
    reply_id: Annotated[str, Meta(description="known: the entry that holds the terminal reply.")] = ""
    ignored: Annotated[
        str,
        Meta(
            description="every end: fields of the request that do not exist, or did not count, separated "
            "by commas."
        ),
    ] = ""
    requests: Annotated[
        str,
        Meta(
            description="listed: JSON list of the open requests, oldest first, at most "
            f"{LISTED_MAX}: {{client, id, model, state, node, priority, waited_ms}}."
        ),
    ] = ""


TERMINAL_KINDS = {
    "done": "the answer, whole",
    "error": "no answer can be had; `code` and `message` say why",
    "expired": "the deadline passed",
    "cancelled": "the client cancelled it, or an operator did",
    "rejected": "never accepted: the id stays unused",
    "listed": "to an operator: the open requests of all clients",
    "noted": "to an operator: the node was drained or resumed, or has pulled or removed the model; "
    "to the gateway: the guest was added or removed",
    "known": "the id was answered before: `state` and `reply_id` say how and where",
}


def reply_fields(reply: Reply) -> dict[str, str | int]:
    """Return a reply as stream fields, without those that hold nothing."""
    return {
        name: int(value) if isinstance(value, bool) else value
        for name in Reply.__struct_fields__
        if (value := getattr(reply, name)) or name in ("id", "kind")
    }
