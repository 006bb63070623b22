"""The guests: clients that the gateway added, beside those of streams.toml."""

from __future__ import annotations

from orion_streams.model import events as ev
from orion_streams.model.state import Grid, without


def added(grid: Grid, event: ev.ClientAdded) -> None:
    """Take in a guest, or its new rules."""
    grid.guests = {**grid.guests, event.client: event.rules}


def removed(grid: Grid, event: ev.ClientRemoved) -> None:
    """Drop a guest. What it was answered is remembered for as long as that of others."""
    grid.guests = without(grid.guests, event.client)
