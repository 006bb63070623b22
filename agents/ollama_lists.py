"""What Ollama's lists say: models on disk (/api/tags) and in memory (/api/ps).

An odd row costs only itself; a list longer than the contract allows is cut. Both are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import msgspec

from orion_streams.agents.backend import Listing, Model
from orion_streams.agents.ollama_answers import amount, tells_error, words_of
from orion_streams.agents.ollama_json import REPLACED, an_object, read
from orion_streams.model.names import is_cloud
from orion_streams.protocol.agent_entries import (
    INSTALLED_MAX,
    MEGABYTES_MAX,
    RESIDENT_MAX,
    TOKENS_MAX,
    WORD_MAX,
    InstalledModel,
    ResidentModel,
)

MB = 1_000_000


class OddRowError(ValueError):
    """A row that cannot be used."""


def installed_models(raw: bytes) -> Listing[InstalledModel]:
    """Read the answer of /api/tags. Raises one of UNREADABLE."""

    def model(row: dict[str, Any]) -> InstalledModel:
        name = name_of(row)
        digest = row.get("digest")
        if not is_digest(digest):
            raise OddRowError(f"{name}: the digest {in_short(digest)}")
        return InstalledModel(name, digest, size_mb_of(row, 1))

    return listing(raw, model, INSTALLED_MAX)


def resident_models(raw: bytes) -> Listing[ResidentModel]:
    """Read the answer of /api/ps. Raises one of UNREADABLE."""

    def model(row: dict[str, Any]) -> ResidentModel:
        context_length = amount(row.get("context_length"), TOKENS_MAX)
        digest = row.get("digest")  # a model of unknown weights takes memory all the same
        digest = digest if is_digest(digest) else ""
        return ResidentModel(name_of(row), digest, size_mb_of(row, 0), context_length)

    return listing(raw, model, RESIDENT_MAX)


def listing(raw: bytes, model: Callable[[dict[str, Any]], Model], most: int) -> Listing[Model]:
    """Read the rows of an answer, each by itself; `most`: how many may stand in a list. Raises one of
    UNREADABLE."""
    found: dict[str, Model] = {}
    left_out, remote = [], []
    for row in rows_of(raw):
        try:
            if not isinstance(row, dict):
                raise OddRowError(f"a row that is no object: {in_short(row)}")
            if runs_elsewhere(row):
                remote.append(name_of(row))
                continue
            each = model(row)
            if each.name in found:
                raise OddRowError(f"{each.name}: listed twice")
            if len(found) == most:
                raise OddRowError(f"{each.name}: more than {most} rows")
            found[each.name] = each
        except OddRowError as error:
            left_out.append(str(error))
    return Listing(tuple(found.values()), tuple(left_out), tuple(remote))


def rows_of(raw: bytes) -> list[Any]:
    """Return the rows of an answer as they came; none for null. Raises one of UNREADABLE."""
    answer = read(raw, an_object, replace_letters=True)
    if tells_error(error := answer.get("error")):
        raise msgspec.ValidationError(words_of(error))
    rows = answer.get("models")
    if rows is not None and not isinstance(rows, list):
        raise msgspec.ValidationError(f"Ollama lists its models as {in_short(rows)}")
    return rows or []


def runs_elsewhere(row: dict[str, Any]) -> bool:
    """Whether a model is asked outside this house: it says so, or Ollama goes by its name."""
    return bool(row.get("remote_host") or row.get("remote_model")) or is_cloud(name_of(row))


def name_of(row: dict[str, Any]) -> str:
    """Return the name of a row. Raises OddRowError."""
    name = row.get("name") or row.get("model")
    if not isinstance(name, str):
        raise OddRowError(f"a name that is no text: {in_short(name)}")
    if len(name) > WORD_MAX or not name.isprintable() or REPLACED in name:
        raise OddRowError(f"a name of {len(name)} characters: {in_short(name)}")
    return name


def is_digest(digest: object) -> TypeGuard[str]:
    """Whether it can name a model's weights."""
    return isinstance(digest, str) and 0 < len(digest) <= WORD_MAX and digest.isprintable()


def size_mb_of(row: dict[str, Any], least: int) -> int:
    """Return the size of a row, at least so many bytes, in whole MB, rounded up. Raises OddRowError."""
    size = row.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= MEGABYTES_MAX * MB:
        raise OddRowError(f"{name_of(row)}: a size of {in_short(size)} bytes")
    return -(-size // MB)


def in_short(value: object) -> str:
    """Return a value as it stood, cut."""
    return msgspec.json.encode(value).decode()[:40]
