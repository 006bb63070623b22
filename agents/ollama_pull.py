"""Lines of Ollama's `/api/pull`: steps, and what its errors mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orion_streams.agents.backend import DiskFailedError, PullStep
from orion_streams.agents.ollama_answers import tells_error, words_of
from orion_streams.agents.ollama_json import UNREADABLE, an_object, read

WORDS: tuple[tuple[str, str], ...] = (
    ("no space left", "no_space"),
    ("file does not exist", "registry_lacks"),
    ("no such host", "registry_away"),
    ("server misbehaving", "registry_away"),
    ("name resolution", "registry_away"),
    ("network is unreachable", "registry_away"),
    ("no route to host", "registry_away"),
    ("connection refused", "registry_away"),
    ("dial tcp", "registry_away"),
    ("i/o timeout", "registry_away"),
    ("tls handshake timeout", "registry_away"),
)
"""Words of Ollama's errors, and their codes: the first that fits. Offline, resolving fails at once."""
SHOWN, BYTES_MAX = 300, 2**53


def pull_step(raw: bytes) -> PullStep:
    """Read a line. Raises RunFailedError if it is an error, or none of Ollama's."""
    try:
        line = read(raw, an_object, replace_letters=True)
    except UNREADABLE as error:
        raise DiskFailedError("pull_failed", "Ollama's line cannot be read") from error
    if tells_error(said := line.get("error")):
        raise failed(words_of(said))
    status, digest = line.get("status"), line.get("digest")
    return PullStep(
        status[:SHOWN] if isinstance(status, str) else "",
        digest[:SHOWN] if isinstance(digest, str) else "",
        amount(line, "total"),
        amount(line, "completed"),
    )


def pull_refusal(raw: bytes) -> DiskFailedError:
    """Return the error of an answer with another status than 200."""
    try:
        error = read(raw, an_object, replace_letters=True).get("error")
    except UNREADABLE:
        error = None
    return failed(words_of(error) if tells_error(error) else "Ollama refuses to pull, and does not say why")


def failed(said: str) -> DiskFailedError:
    """Return the error that Ollama's words stand for."""
    code = next((code for words, code in WORDS if words in said.lower()), "pull_failed")
    return DiskFailedError(code, said[:SHOWN])


def amount(line: Mapping[str, Any], name: str) -> int:
    """Return a number of bytes; 0 for what is none."""
    value = line.get(name)
    return value if type(value) is int and 0 <= value <= BYTES_MAX else 0
