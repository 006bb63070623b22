"""The entries between router and agents: one JSON `head` field each, and the bodies beside it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from orion_streams.model.policy import IN_HAND_MAX

WORD_MAX, AMOUNT_MAX, MEGABYTES_MAX, MILLIS_MAX, TOKENS_MAX = 256, 2**53, 2**30, 2**36, 2**24
INSTALLED_MAX, RESIDENT_MAX, NAMED_MAX, DESCRIBED_MAX = 1000, 64, 8, 8
PARAMETERS_MAX, TEMPLATE_MAX = 4_000, 11_000
"""What writer and reader allow: characters, numbers, rows of a list. The writer cuts, and says so."""

Word = Annotated[str, Meta(max_length=WORD_MAX)]
Id = Annotated[str, Meta(pattern=r"\A([0-9]{1,19}-[0-9]{1,19})?\Z")]
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Megabytes = Annotated[int, Meta(ge=0, le=MEGABYTES_MAX)]
Millis = Annotated[int, Meta(ge=0, le=MILLIS_MAX)]
Tokens = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]
"""Bounded so that products of two of them stay within 64 bits."""
RunnerOptions = Annotated[dict[Word, Annotated[int, Meta(ge=-(2**53), le=2**53)]], Meta(max_length=16)]
"""Options that a model is loaded with, under Ollama's names."""


ResultOp = Literal["started", "tokens", "completed", "failed", "progress"]


class InstalledModel(Struct, frozen=True):
    """A row of Ollama's /api/tags."""

    name: Word
    digest: Word
    size_mb: Megabytes


class ResidentModel(Struct, frozen=True):
    """A row of Ollama's /api/ps."""

    name: Word
    digest: Word
    size_mb: Megabytes
    context_length: Amount = 0


class ModelDescription(Struct, frozen=True, omit_defaults=True):
    """What Ollama's /api/show says of an installed model: see `model.description`."""

    name: Word
    digest: Word
    family: Word = ""
    parameter_size: Word = ""
    quantization: Word = ""
    capabilities: Annotated[tuple[Word, ...], Meta(max_length=NAMED_MAX * 2)] = ()
    context_length: Amount = 0
    num_ctx: Amount = 0
    parameters: Annotated[str, Meta(max_length=PARAMETERS_MAX)] = ""
    template: Annotated[str, Meta(max_length=TEMPLATE_MAX)] = ""
    truncated: Annotated[tuple[Word, ...], Meta(max_length=NAMED_MAX)] = ()


class HealthHead(Struct, frozen=True, omit_defaults=True):
    """An entry of `health:<node>`: complete, so that a lost one heals with the next.

    `temp_mc` is null where no sensor exists. `inventory_digest` names the list of installed models, which
    itself comes on change and every minute; it is empty while Ollama cannot be asked. `left_out`: rows of
    Ollama's lists that could not be used, and why the first. `remote`: models that run elsewhere, the first
    few: they are in no list, and are never asked. `sensor`: where the temperature comes from, or why there
    is none; `engine`: what runs the models, such as "ollama 0.24.0"; each on change and every minute.
    `described`: what models are, a few at a time: each once it is known, and again after each list.
    `leaving`: the agent is to end: it begins nothing more, and hands back what it is sent. `goodbye`: its
    last entry: it reads no more.
    """

    boot: Word
    sampled_ms: Amount
    temp_mc: Annotated[int, Meta(ge=-100_000, le=500_000)] | None
    ram_used_mb: Amount
    ram_total_mb: Annotated[int, Meta(ge=1, le=2**40)]
    cpu_permille: Annotated[int, Meta(ge=0, le=1000)]
    throttled: Amount = 0
    resident: Annotated[tuple[ResidentModel, ...], Meta(max_length=RESIDENT_MAX)] = ()
    inventory_digest: Word = ""
    inventory: Annotated[tuple[InstalledModel, ...], Meta(max_length=INSTALLED_MAX)] | None = None
    in_hand: Annotated[tuple[Id, ...], Meta(max_length=IN_HAND_MAX)] = ()
    work_read: Id = ""
    results_written: Id = ""
    left_out: Amount = 0
    left_out_why: Word = ""
    remote: Annotated[tuple[Word, ...], Meta(max_length=NAMED_MAX)] = ()
    sensor: Word = ""
    engine: Word = ""
    described: Annotated[tuple[ModelDescription, ...], Meta(max_length=DESCRIBED_MAX)] = ()
    leaving: bool = False
    goodbye: bool = False


class WorkHead(Struct, frozen=True, omit_defaults=True):
    """An entry of `work:<node>`. run: the request's body fields stand beside it; its own entry id is the
    attempt's fence. cancel: `work_id` names the run, load, pull or removal. load, unload, pull, remove:
    `model`. An agent that does not know an `op` passes the entry over.

    `options` of a run or load are the runner's that the router pinned. They win over the request's own,
    and one that they leave out is Ollama's default, whatever the request says: so no request reloads the
    model by accident. Without any, the request's own go through. `keep_alive_max_ms`: so much of the
    request's `keep_alive` counts.
    """

    op: Literal["run", "cancel", "load", "unload", "pull", "remove"]
    request: Word = ""
    attempt: Amount = 0
    model: Word = ""
    work_id: Id = ""
    options: RunnerOptions = {}
    keep_alive_max_ms: Millis = 0


class ResultHead(Struct, frozen=True, omit_defaults=True):
    """An entry of `results:<node>`. tokens: `seq` and PIECE_FIELDS. completed: counts, durations and
    ANSWER_FIELDS. failed: code, blame and the field `message`.

    With an empty `request` it is the end of an ordered load: completed, with `load_ms` as the agent
    measured it, or failed. An unload has no result; health shows what came of it. A pull or a removal
    ends like a load; before that progress: PROGRESS_FIELDS, at most two entries a second, which cause no
    event.
    """

    op: ResultOp
    request: Word
    attempt: Amount
    work_id: Id
    seq: Amount = 0
    engine: Word = ""
    tokens: Tokens = 0
    prompt_tokens: Tokens = 0
    load_ms: Millis = 0
    prefill_ms: Millis = 0
    decode_ms: Millis = 0
    total_ms: Millis = 0
    done_reason: Word = ""
    first_token_ms: Millis = 0
    code: Word = ""
    blame: Literal["", "request", "node", "ours"] = ""


PIECE_FIELDS = ("text", "thinking", "tool_calls", "logprobs")
PROGRESS_FIELDS = ("status", "digest", "total", "completed")
ANSWER_FIELDS = (*PIECE_FIELDS, "vectors", "context")
"""The fields of a piece of an answer, and of a whole one; all but text and thinking are JSON."""

encode_head = msgspec.json.Encoder().encode
decode_health = msgspec.json.Decoder(HealthHead).decode
decode_work = msgspec.json.Decoder(WorkHead).decode
decode_result = msgspec.json.Decoder(ResultHead).decode
