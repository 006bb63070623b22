"""What a request that is not answered becomes over HTTP."""

import pytest

from orion_streams.gateway.failures import RETRIED, STATUSES, refusal_of
from orion_streams.protocol.requests_replies import CODES

NEVER_OF_A_REQUEST = {"unknown_id"}
"""Codes that only answer a cancel."""


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
    assert bool(refusal.retry_after_s) == (status in RETRIED)


def test_an_unknown_model_is_told_in_ollamas_words() -> None:
    """By the name that was asked for, which clients look for."""
    assert refusal_of("unknown_model", "No inference node …", "llava").message == "model 'llava' not found"
