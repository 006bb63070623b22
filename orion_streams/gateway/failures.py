"""What a request that the grid does not answer is answered over HTTP. Pure."""

from __future__ import annotations

import re

from orion_streams.gateway.refusal import Refusal, not_found

RETRY_AFTER_S = 5
STATUSES = {
    # rejected
    "bad_utf8": 400,
    "bad_id": 400,
    "bad_field": 400,
    "bad_json": 400,
    "too_large": 413,
    "unknown_model": 404,
    "model_too_large": 400,
    "incapable": 400,
    "not_allowed": 403,
    "unknown_node": 404,
    "node_away": 503,
    "pull_off": 403,
    "model_busy": 409,
    "disk_busy": 409,
    "queue_full": 503,
    "unknown_client": 503,
    # error
    "refused": 400,
    "attempts_exhausted": 502,
    "body_gone": 502,
    "parts_gone": 502,
    "answer_too_large": 502,
    "reply_gone": 502,
    # other ends
    "expired": 504,
    "timeout": 504,
    "cancelled": 503,
}
"""By the codes of the contract; any other is the grid's own fault, a 502."""
RETRIED = frozenset({"queue_full", "unknown_client", "node_away", "disk_busy"})
"""Codes after which asking again later may help; all else the grid has tried by itself."""
UNKNOWN, INCAPABLE = "unknown_model", "incapable"
LACKS = re.compile(r" lacks: ([a-z, ]+)\.$")
"""How the contract's sentence of a model that cannot do what is asked ends."""
REFUSED_BY_OLLAMA = "Ollama refused the request itself; the message holds its words."


def cannot(model: str, lacks: str) -> str:
    """Return Ollama's words for a model that cannot do what is asked, by which clients ask without it."""
    if lacks == "embedding":
        return "this model does not support embeddings"
    return f'"{model}" does not support {lacks}'


def refusal_of(code: str, message: str, model: str) -> Refusal:
    """Return the refusal that a code and its sentence stand for; `model`: as the client wrote it."""
    status = STATUSES.get(code, 502)
    if code == UNKNOWN:
        return not_found(model)
    if code == INCAPABLE and (found := LACKS.search(message)):
        return Refusal(status, cannot(model, found[1]))
    retry_after_s = RETRY_AFTER_S if code in RETRIED else 0
    return Refusal(status, message or code, retry_after_s=retry_after_s)
