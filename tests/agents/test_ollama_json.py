"""JSON that is none by the letter: what can be read of it is read, and an answer is never changed."""

from __future__ import annotations

import msgspec
import pytest

from orion_streams.agents.backend import RunFailedError
from orion_streams.agents.ollama_answers import chunk, embedded
from orion_streams.agents.ollama_blame import refusal
from orion_streams.agents.ollama_json import UNREADABLE, read
from orion_streams.agents.ollama_lists import installed_models, resident_models
from orion_streams.agents.ollama_show import description
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import InstalledModel

MARK = b"\xef\xbb\xbf"
NO_NUMBERS = [b"NaN", b"-Infinity", b"1e999", b"1" + b"0" * 5000]
NO_LETTERS = [b"\xff", rb"\ud83d", rb"\ude00\ud83d"]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_number_that_cannot_be_is_unknown(number: bytes) -> None:
    """The text beside it is whole all the same."""
    found = chunk(b'{"response":"\xc3\xa9","done":true,"eval_count":%s,"prompt_eval_count":7}' % number)
    assert (found.text, found.usage) == ("é", Usage(prompt_tokens=7))


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_vector_with_a_number_that_cannot_be_is_none(number: bytes) -> None:
    """No null reaches a client."""
    with pytest.raises(RunFailedError, match="vectors cannot be used"):
        embedded(b'{"embeddings":[[0.5,%s]]}' % number, 1)


@pytest.mark.parametrize("letters", NO_LETTERS)
def test_an_answer_with_letters_that_are_none_is_refused(letters: bytes) -> None:
    """A client would get another text than the model wrote."""
    with pytest.raises(RunFailedError, match="line cannot be read") as failed:
        chunk(b'{"response":"a%sb","done":true}' % letters)
    assert failed.value.code == "bad_answer"


@pytest.mark.parametrize("value", [*NO_NUMBERS, *(b'"x%s:1b"' % each for each in NO_LETTERS)])
@pytest.mark.parametrize("key", [b"name", b"size", b"digest"])
def test_a_row_that_is_no_json_costs_only_itself(key: bytes, value: bytes) -> None:
    """Of a list on disk and in memory, wherever it stands in the row."""
    good = b'{"name":"m:latest","digest":"abc","size":5000001}'
    odd = b'{"name":"odd:latest","digest":"abc","size":9,"%s":%s}' % (key, value)
    for read_list in (installed_models, resident_models):
        found = read_list(b'{"models":[%s,%s]}' % (odd, good))
        assert found.models[-1].name == "m:latest"
        assert len(found.models) + len(found.left_out) == 2
    assert key == b"digest" or len(found.left_out) == 1


def test_a_mark_of_the_byte_order_is_skipped() -> None:
    """Of a line, of vectors, of lists, of a description, of an error."""
    assert chunk(MARK + b'{"response":"a"}').text == "a"
    assert embedded(MARK + b'{"embeddings":[[1,0.25]]}', 1).vectors == b"[[1, 0.25]]"
    assert len(installed_models(MARK + b'{"models":[{"name":"m","digest":"a","size":1}]}').models) == 1
    shown = description(MARK + b'{"details":{"family":"f"}}', InstalledModel("m", "a", 1))
    assert shown.family == "f"
    assert refusal(400, MARK + b'{"error":"model is required"}').blame == "request"


@pytest.mark.parametrize("raw", [b"", b"[", b"{", b"<html>", MARK, b"'a'", b"\xff", b"[" * 100_000])
def test_what_is_no_json_stays_unreadable(raw: bytes) -> None:
    """The error is about what came."""
    decode = msgspec.json.Decoder().decode
    with pytest.raises(UNREADABLE) as first:
        decode(raw)
    with pytest.raises(UNREADABLE) as second:
        read(raw, decode, replace_letters=True)
    assert str(second.value) == str(first.value)
