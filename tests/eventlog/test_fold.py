"""Events and folds under arbitrary histories, also such as no router would write."""

from __future__ import annotations

from hypothesis import given

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.projections import evolve, fold
from tests.properties.histories import EVENTS, HISTORIES
from tests.properties.strategies import MANY


@MANY
@given(HISTORIES, EVENTS)
def test_evolve_leaves_the_grid_alone(before: list[ev.AnyEvent], event: ev.AnyEvent) -> None:
    """The grid that was given is the same afterwards, and the event was counted in the new one."""
    grid = fold(Grid(), before)
    bytes_before = encode_grid(grid)
    after = evolve(grid, event)
    assert encode_grid(grid) == bytes_before
    assert after.position == grid.position + 1


@MANY
@given(HISTORIES)
def test_events_survive_their_bytes(before: list[ev.AnyEvent]) -> None:
    """What the log holds of an event is the event."""
    assert [event_codec.decode(event_codec.encode(event)) for event in before] == before
