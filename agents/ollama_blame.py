"""Whose fault an answer of Ollama is that is not 200. The request's own only by this table, and only in
Ollama's words: a page of a proxy, and all else, is the node's."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.agents.backend import Blame, RunFailedError
from orion_streams.agents.ollama_answers import REASON_MAX, words_of
from orion_streams.agents.ollama_json import UNREADABLE, an_object, read


class Fault(Struct, frozen=True):
    """A row: answers with one of these statuses (none: any), whose error has one of these words (none:
    any, or no error at all). `breaks_model`: the model counts as gone from memory."""

    statuses: tuple[int, ...]
    words: tuple[str, ...]
    code: str
    blame: Blame
    meaning: str
    breaks_model: bool = False


LACKS = tuple(
    f"does not support {each}"
    for each in (
        *("completion", "generate", "chat", "tools", "insert", "vision", "audio", "image generation"),
        *("embedding", "thinking"),
    )
)
"""Ollama's words for what a model cannot do (server/images.go); a machine may lack something, too."""
ANY_ERROR = ("",)
"""Ollama's own form is asked for, whatever it says."""

FAULTS = (
    Fault(
        (400,),
        ("missing request body", "unexpected EOF"),
        "not_ollama",
        "node",
        "something before it has cut the request",
    ),
    Fault((400, 501), ANY_ERROR, "refused", "request", "Ollama does not accept the request"),
    Fault((500,), ("must be of type", "invalid option"), "refused", "request", "an option of a wrong type"),
    Fault((500,), ("invalid format",), "refused", "request", "`format` is neither `json` nor a schema"),
    Fault((500,), LACKS, "refused", "request", "the model cannot do what is asked"),
    Fault(
        (500,),
        ("failed to process inputs", "exceeds the context"),
        "refused",
        "request",
        "an image that cannot be read, or a text that does not fit",
    ),
    Fault((404,), (), "model_missing", "node", "the model is not there, whatever the inventory says"),
    Fault((429, 503), (), "ollama_busy", "node", "its queue is full, or a proxy says so"),
    Fault((500,), ("requires more system memory",), "ollama_memory", "node", "too little memory just now"),
    Fault((), ANY_ERROR, "ollama_error", "node", "any other error in Ollama's form", breaks_model=True),
    Fault((), (), "not_ollama", "node", "a proxy's page, a redirect, and everything else"),
)
"""The first row that fits counts."""


def refusal(status: int, body: bytes) -> RunFailedError:
    """Return the failure that an answer which is not 200 stands for."""
    error = error_of(body)
    row = next(each for each in FAULTS if fits(each, status, error))
    return RunFailedError(row.code, row.blame, (error or f"status {status}")[:REASON_MAX], row.breaks_model)


def fits(row: Fault, status: int, error: str) -> bool:
    """Whether a row speaks of an answer with this status and error ("": none in Ollama's form)."""
    if row.statuses and status not in row.statuses:
        return False
    return not row.words or (bool(error) and any(each in error for each in row.words))


def error_of(body: bytes) -> str:
    """Return the words of an error in Ollama's form; "" where the body is anything else."""
    try:
        error = read(body, an_object, replace_letters=True).get("error")
    except UNREADABLE:
        return ""
    is_known = isinstance(error, str) or (isinstance(error, dict) and isinstance(error.get("message"), str))
    return words_of(error) if is_known else ""
