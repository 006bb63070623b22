"""Law 10: decide answers no more than it may, and comes to an end."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from msgspec.structs import replace

from orion_streams.decider.decide import QUESTIONS, decide
from orion_streams.model import events as ev
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import WaitKind
from orion_streams.projections import fold
from tests.grids import fails, grid, node, request
from tests.properties import histories
from tests.properties import strategies as make
from tests.properties.laws import settle


@make.MANY
@given(make.queues())
def test_decide_comes_to_an_end(some: Grid) -> None:
    """Its own answers folded in, finally it answers nothing; each answer keeps all other laws."""
    settle(some)


@make.FEW
@given(make.queues())
def test_small_commits_come_to_the_same_kind_of_end(some: Grid) -> None:
    """One answer at a time is as good: the same requests are on their way, and nothing is left to say."""
    bit_by_bit = settle(replace(some, policy=replace(some.policy, max_events=1)))[0]
    at_once = settle(some)[0]
    waiting = [{key for key, row in each.open.items() if not row.work_id} for each in (bit_by_bit, at_once)]
    assert waiting[0] == waiting[1]


@make.MANY
@given(histories.HISTORIES)
def test_decide_comes_to_an_end_after_any_history(before: list[ev.AnyEvent]) -> None:
    """Also where no router would have written such a log; and the grid is left alone."""
    some = fold(Grid(), before)
    raw = encode_grid(some)
    decide(some)
    assert encode_grid(some) == raw
    settle(some, checking=None)


def test_a_question_that_repeats_itself_never_ends() -> None:
    """Negative control: one that says every time that a request waits has no fixed point."""

    def again(some: Grid) -> Iterator[ev.AnyEvent]:
        for key in some.open:
            yield ev.RequestDeferred(key, WaitKind.NO_NODE)

    def answering(some: Grid) -> tuple[ev.AnyEvent, ...]:
        return decide(some, (*QUESTIONS, again))

    stuck = grid(node("n", temp_mc=80_000), open_requests={"brain/q": request()})
    settle(stuck)
    assert fails(settle, stuck, answering)
