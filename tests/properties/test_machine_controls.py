"""Negative controls of the machine: with a broken router, some law fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from orion_streams.decider.decide import QUESTIONS, Question, ends, lost_attempts, safety
from orion_streams.decider.queue import placements
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import UnloadReason
from tests.properties import strategies as make
from tests.properties.test_machine import House


def careless(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Sends whoever waits to the first node by name, whatever its condition."""
    for key, request in list(grid.open.items()):
        if not request.work_id:
            yield ev.RequestRouted(key, request.attempt + 1, min(grid.nodes), "", grid.position, ())


def forgetful(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Unloads whatever is in memory to make room for nothing."""
    for name, node in sorted(grid.nodes.items()):
        for model in node.resident:
            if model not in node.unload_ordered_ms:
                yield ev.UnloadOrdered(name, model, UnloadReason.ROOM)


def instead(old: Question, *new: Question) -> tuple[Question, ...]:
    """The questions, one of them replaced."""
    return tuple(each for question in QUESTIONS for each in (new if question is old else (question,)))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(instead(placements, careless), id="no filters"),
        pytest.param(instead(placements), id="nobody is sent anywhere"),
        pytest.param(instead(lost_attempts), id="lost attempts stay lost"),
        pytest.param(instead(ends), id="no request ever expires"),
        pytest.param(instead(safety), id="no mark holds a node back"),
        pytest.param((*QUESTIONS, forgetful), id="models go at once"),
    ],
)
def test_a_broken_router_is_found_out(broken: tuple[Question, ...]) -> None:
    """Negative control: whichever question is answered wrongly or left out, some law fails."""

    class Broken(House):
        """A machine whose router is broken."""

        questions = broken

    found = settings(make.laws(300), phases=[Phase.generate], derandomize=True, stateful_step_count=50)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Broken, settings=found)
