"""What is asked of Ollama: the body of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orion_streams.model import toml_values
from orion_streams.protocol import requests_replies
from orion_streams.protocol.agent_entries import WorkHead

RUN_FIELDS = (
    *("prompt", "system", "messages", "format", "tools", "images", "think", "raw", "suffix", "template"),
    *("context", "truncate", "shift", "logprobs", "top_logprobs"),
)
EMBED_FIELDS = ("truncate", "dimensions")
RUNNER_OPTIONS = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"})
"""What a model is loaded with: with another value Ollama loads it anew."""


def request_body(
    entry: requests_replies.RequestEntry,
    head: WorkHead,
    keep_alive: str | float,
    num_predict_max: int,
) -> bytes:
    """Make a request. It always limits the answer: without a limit a model may go on for ever."""
    options = merged(entry.options or {}, head.options)
    keep_alive = longer(keep_alive, entry, head.keep_alive_max_ms)
    body: dict[str, Any] = {"model": entry.model, "keep_alive": keep_alive, "options": options}
    if requests_replies.kind_of(entry) == "embed":
        body["input"] = texts_of(entry)
        return msgspec.json.encode(body | given(entry, EMBED_FIELDS))
    if is_number(options.get("num_predict", 0)):  # else Ollama refuses it
        options["num_predict"] = tokens_allowed(options, num_predict_max)
    body["stream"] = True
    return msgspec.json.encode(body | given(entry, RUN_FIELDS))


def given(entry: requests_replies.RequestEntry, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields that the request has, under Ollama's names, which are the same."""
    return {name: value for name in names if (value := getattr(entry, name)) is not None}


def longer(own: str | float, entry: requests_replies.RequestEntry, max_ms: int) -> str | float:
    """Return for how long the model stays in memory: the node's `own` time, or what the request asks for
    where that is longer, at most `max_ms`. An empty prompt with 0 lets it go."""
    if requests_replies.unloads(entry):
        return 0
    asked_ms = requests_replies.keep_alive_ms(entry.keep_alive or "")
    own_ms = own * 1000 if not isinstance(own, str) else toml_values.duration_ms(own) or 0
    if own_ms < 0 or asked_ms is None or min(asked_ms, max_ms) <= own_ms:
        return own
    return min(asked_ms, max_ms) / 1000


def tokens_allowed(options: Mapping[str, Any], most: int) -> int:
    """Return how many tokens an answer may have: what is asked for, where it is a limit, at most `most`."""
    asked = options.get("num_predict", 0)
    return int(asked) if is_number(asked) and 1 <= asked <= most else most


def is_number(value: object) -> bool:
    """Whether JSON has it as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def texts_of(entry: requests_replies.RequestEntry) -> list[str]:
    """Return the texts whose vectors are asked for."""
    return entry.input if entry.input is not None else [entry.prompt or ""]


def merged(asked: Mapping[str, Any], pinned: Mapping[str, int]) -> dict[str, Any]:
    """Merge a request's options with the runner's that are pinned. Where any is pinned, pass on none of the
    request's own to the runner: Ollama would load the model anew."""
    if not pinned:
        return dict(asked)
    return {name: value for name, value in asked.items() if name not in RUNNER_OPTIONS} | dict(pinned)
