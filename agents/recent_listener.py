"""Feeds what the page and `orion top` show of the last minutes."""

from __future__ import annotations

from collections.abc import Callable

from orion_streams.gateway.page_recent import Recent
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid


class RecentListener:
    """Tells a `Recent` what a follower folds, from position `start` on (None: from the end of the log).
    `reset` is called when it does not go on where it was."""

    def __init__(self, reset: Callable[[], None] = lambda: None, start: int | None = None) -> None:
        self.recent, self.reset = Recent(), reset
        self._start = start
        self._state: LoggedGrid | None = None

    @property
    def position(self) -> int | None:
        """The last event that it knows."""
        return self._start if self.recent.position is None else self.recent.position

    def begin(self, state: LoggedGrid) -> None:
        """Go on from there; another log begins anew."""
        before = self._state
        if before is not None and before.grid.position == state.grid.position:
            is_another = before.digest != state.digest
            self.recent = Recent() if is_another else self.recent
        if state.grid.position != self.recent.position:
            self.reset()
        self.recent.begin(state.grid)
        self._state = state

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Take an event."""
        self.recent.take(grid, event)
