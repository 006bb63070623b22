"""What a real Ollama said, written again by the gateway, is the same but for listed differences."""

import pytest

from tests.gateway.listed_differences import Row, altered, explained, unlisted
from tests.gateway.recorded_lines import differing, native_answer, v1_answer
from tests.simulated_ollama.recorded_contract import Exchange, by_name, recorded

NATIVE_FILES = ("2-residency", "3-inference", "4-reload-and-context", "5-refusals", "9-reload-while-busy")
NATIVE = [
    exchange
    for file in NATIVE_FILES
    for exchange in recorded(file)
    if exchange.request.path in ("/api/generate", "/api/chat") and exchange.status != 405
]
V1 = recorded("6-openai")

ROLE_ONCE = "the role stands in the first chunk only, as OpenAI sends it and its clients add it up"
EMPTY_END = "the last chunk has an empty delta, as OpenAI's has"
NOT_TOLD = "the log does not say when a model came onto a disk"
MADE_UP = "ids of messages within a response are made from the response's"
ONE_TYPE = "an error has one content type and ends with a line, whoever raised it"

DIFFERENCES = (
    ("v1-chat-stream(-usage)?", r"\[[1-4]\]\.choices\[0\]\.delta\.role", ROLE_ONCE),
    ("v1-chat-stream(-usage)?", r"\[4\]\.choices\[0\]\.delta\.content", EMPTY_END),
    ("v1-chat-stream(-usage)?", r"\[4\]\.choices\[0\]\.delta", EMPTY_END),
    ("v1-models", r"\[0\]\.data\[0\]\.created", NOT_TOLD),
    ("v1-model", r"\[0\]\.created", NOT_TOLD),
    ("v1-responses", r"\[0\]\.output\[0\]\.id", MADE_UP),
    ("v1-(bad-json|no-messages)", "type|last byte", ONE_TYPE),
)  # fmt: skip


@pytest.mark.parametrize("exchange", NATIVE, ids=lambda exchange: exchange.name)
def test_a_native_answer_is_written_to_the_byte(exchange: Exchange) -> None:
    """Lines made of what was said are those that Ollama sent, and so are its errors."""
    assert native_answer(exchange).text == exchange.text


@pytest.mark.parametrize("exchange", V1, ids=lambda exchange: exchange.name)
def test_an_answer_under_v1_has_the_recorded_fields(exchange: Exchange) -> None:
    """Every field of every event has the recorded value, in the recorded order."""
    assert unlisted(DIFFERENCES, exchange, differing(exchange, v1_answer(exchange))) == {}


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row[1])
def test_each_listed_difference_is_one(row: Row) -> None:
    """No row of the table explains what is no longer so."""
    assert any(explained(row, each, differing(each, v1_answer(each))) for each in V1)


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("v1-chat", '"completion_tokens":4', '"completion_tokens":5', "[0].usage.completion_tokens"),
        ("v1-chat", '"object":"chat.completion"', '"object":"chat"', "[0].object"),
        ("v1-chat-stream", "[DONE]", "[ENDED]", "[5]"),
        ("v1-chat-stream-usage", '"choices":[]', '"choices":null', "[5].choices"),
        ("v1-missing-model", '"param":null,"code":null', '"code":null,"param":null', "order"),
        ("v1-missing-model", "}}\n", "}}", "last byte"),
    ],
)
def test_the_comparison_sees_a_changed_field(name: str, old: str, new: str, place: str) -> None:
    """A value, an end, an order or a last byte that was not recorded is a difference."""
    exchange = by_name(V1)[name]
    got = v1_answer(exchange)
    assert place not in differing(exchange, got)
    assert place in differing(altered(exchange, old, new), got)
