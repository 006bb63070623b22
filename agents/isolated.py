"""A listener of the log that fails alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from orion_streams.agents.gateway_http import where
from orion_streams.agents.grid_follower import LogListener
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid

log = logging.getLogger("orion.gateway")


class Isolated:
    """Lets a listener hear, until it fails: that is logged, and ends nothing else. `name`: for the log."""

    def __init__(self, name: str, listener: LogListener) -> None:
        self._name, self._listener = name, listener
        self.failed = False

    @property
    def position(self) -> int | None:
        """The last event that it knows; None once it has failed."""
        return None if self.failed else self._listener.position

    def begin(self, state: LoggedGrid) -> None:
        """Let it begin."""
        self._attempt(partial(self._listener.begin, state))

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Let it hear an event."""
        self._attempt(partial(self._listener.take, grid, event))

    def _attempt(self, hear: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            hear()
        except Exception as error:  # what answers requests goes on
            self.failed = True
            log.error(
                "%s failed, and stands still until the gateway starts again: %s", self._name, where(error)
            )
