"""What a request that is not answered becomes over HTTP."""

import pytest

from orion_streams.gateway.failures import RETRIED, STATUSES, refusal_of
from orion_streams.gateway.http_calls import refused
from orion_streams.protocol.requests_replies import CODES

NEVER_OF_A_REQUEST = {"unknown_id", "unknown_node", "last_node", "last_copy"}
"""Codes that answer what no request over HTTP asks for."""


def test_every_code_of_the_contract_has_a_status() -> None:
    """None falls through to the grid's own fault by oversight."""
    assert CODES.keys() - NEVER_OF_A_REQUEST - STATUSES.keys() == set()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unknown_model", 404),
        ("bad_field", 400),
        ("refused", 400),
        ("too_large", 413),
        ("queue_full", 503),
        ("attempts_exhausted", 502),
        ("expired", 504),
        ("something_new", 502),
    ],
)
def test_a_code_becomes_its_status(code: str, status: int) -> None:
    """As the clients' libraries understand them."""
    refusal = refusal_of(code, "why", "m")
    assert refusal.status == status
    assert bool(refusal.retry_after_s) == (code in RETRIED)


def test_an_unknown_model_is_told_in_ollamas_words() -> None:
    """By the name that was asked for, which clients look for."""
    assert refusal_of("unknown_model", "No inference node …", "llava").message == "model 'llava' not found"


@pytest.mark.parametrize(
    ("code", "told"),
    [("attempts_exhausted", True), ("expired", True), ("cancelled", True), ("queue_full", False)],
)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_clients_are_told_not_to_send_again_what_was_tried(path: str, code: str, told: bool) -> None:
    """OpenAI's and Anthropic's would send any 5xx twice more; what may help later says when."""
    headers = refused(path, refusal_of(code, "why", "m"), "1").headers
    assert (headers.get("x-should-retry") == "false") is told
    assert ("Retry-After" in headers) is not told
