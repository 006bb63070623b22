"""No two halves are glued: what is sent is the beginning of one answer, whatever attempts made it."""

from hypothesis import given
from hypothesis import strategies as st

from orion_streams.gateway.continuation import Continuation
from orion_streams.gateway.refusal import Refusal
from orion_streams.protocol.answer_events import Piece

CALL = {"id": "one", "function": {"name": "look"}}
AGAIN = {"id": "two", "function": {"name": "look"}}
OTHER = {"id": "two", "function": {"name": "go"}}

TEXTS = st.text("ab", max_size=6)
PIECES = st.builds(
    Piece, TEXTS, st.just(1), TEXTS, st.lists(st.sampled_from([CALL, OTHER]), max_size=2).map(tuple)
)
ATTEMPTS = st.lists(st.lists(PIECES, max_size=4), min_size=1, max_size=3)


def said(pieces: list[Piece]) -> tuple[str, str, list[str]]:
    """What pieces say in all; of calls only which."""
    calls = [call["function"]["name"] for piece in pieces for call in piece.tool_calls]
    return "".join(p.text for p in pieces), "".join(p.thinking for p in pieces), calls


@given(ATTEMPTS)
def test_what_was_sent_is_always_a_beginning_of_the_attempt(attempts: list[list[Piece]]) -> None:
    """Either it ends, or once an attempt has caught up all that was sent is what it said."""
    sent, whole = Continuation(), [Piece()]
    for number, attempt in enumerate(attempts):
        if number:
            sent.restart()
        for at, piece in enumerate(attempt):
            try:
                whole.append(sent.take(piece))
            except Refusal:
                return
            if not sent.is_behind:
                assert said(whole) == said(attempt[: at + 1])
    assert said(whole) == (sent.text, sent.thinking, [call["function"]["name"] for call in sent.calls])


@given(st.lists(PIECES, max_size=4), st.integers(0, 4), st.data())
def test_the_same_answer_again_goes_on(pieces: list[Piece], heard: int, data: st.DataObject) -> None:
    """An attempt that repeats the answer, in whatever pieces, completes it."""
    sent = Continuation()
    whole = [sent.take(piece) for piece in pieces[:heard]]
    sent.restart()
    text, thinking, _ = said(pieces)
    calls = tuple(call for piece in pieces for call in piece.tool_calls)
    cut = data.draw(st.integers(0, len(text)))
    for piece in (Piece(text[:cut], 2, thinking), Piece(text[cut:], 2, "", calls)):
        whole.append(sent.take(piece))
    assert said(whole) == said(pieces)
    assert not sent.is_behind


def test_a_call_counts_as_the_same_under_another_id() -> None:
    """Each attempt makes ids anew; the client keeps the one that it was told."""
    sent = Continuation()
    sent.take(Piece(tool_calls=(CALL,)))
    sent.restart()
    assert sent.take(Piece(tool_calls=(AGAIN,))) == Piece()
    assert sent.calls == [CALL]


def test_another_call_ends_it() -> None:
    """A program may have acted on the first."""
    sent = Continuation()
    sent.take(Piece(tool_calls=(CALL,)))
    sent.restart()
    try:
        sent.take(Piece(tool_calls=(OTHER,)))
    except Refusal as refusal:
        assert refusal.status == 502
    else:
        raise AssertionError("it went on")


def test_before_anything_was_sent_any_answer_is_good() -> None:
    """A crash before the first piece leaves no trace."""
    sent = Continuation()
    sent.restart()
    assert sent.take(Piece("b")) == Piece("b")
