"""What is asked of Ollama: the body of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from orion_streams.protocol import requests_replies

RUNNER_OPTIONS = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"})
"""What a model is loaded with: with another value Ollama loads it anew."""


def request_body(
    entry: requests_replies.RequestEntry,
    pinned: Mapping[str, int],
    keep_alive: str | float,
    num_predict_max: int,
) -> bytes:
    """Make a request. It always limits the answer: without a limit a model may go on for ever."""
    options = merged(entry.options or {}, pinned)
    body: dict[str, Any] = {"model": entry.model, "keep_alive": keep_alive, "options": options}
    if requests_replies.kind_of(entry) == "embed":
        body["input"] = texts_of(entry)
        return msgspec.json.encode(body)
    if is_number(options.get("num_predict", 0)):  # else Ollama refuses it
        options["num_predict"] = tokens_allowed(options, num_predict_max)
    body["stream"] = True
    for name in ("prompt", "system", "messages", "format", "tools", "images", "think"):
        value = getattr(entry, name)
        if value is not None:
            body[name] = value
    return msgspec.json.encode(body)


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
