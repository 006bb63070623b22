"""While Redis is away: how long to wait before the next try, and how it is told without flooding a log."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

FIRST_S, LONGEST_S = 0.1, 2.0
SAY_AGAIN_S = 60.0


class BackOff:
    """Pauses that double up to LONGEST_S, each cut by chance to between half and all of it: what waited for
    the same server does not come back in the same instant."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def pause_s(self) -> float:
        """How long to wait now."""
        pause_s = min(self._next_s, LONGEST_S)
        self._next_s = min(self._next_s * 2, LONGEST_S)
        return pause_s * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def reset(self) -> None:
        """It worked: the next pause is short again."""
        self._next_s = FIRST_S


class Absence:
    """What the parts of one process find of their server. Said when the first of them fails, every minute
    while one does, and once when all work again."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._parts: set[str] = set()
        self._what = ""
        self._since_s = self._said_s = 0.0
        self.tries = 0

    def failed(self, part: str, words: str, what: str = "redis") -> None:
        """A part could not do its work: `words` say why, `what` is away."""
        now_s = self._clock()
        if not self._parts:
            self._since_s, self.tries, self._what = now_s, 0, ""
        self._parts.add(part)
        self.tries += 1
        if what == self._what and now_s - self._said_s < SAY_AGAIN_S:
            return
        away_s = now_s - self._since_s
        self._log.warning("%s%s", words, f" (for {away_s:.0f} s, {self.tries} tries)" if away_s > 1 else "")
        self._what, self._said_s = what, now_s

    def worked(self, part: str) -> None:
        """A part did its work."""
        if part not in self._parts:
            return
        self._parts.remove(part)
        if not self._parts:
            away_s = self._clock() - self._since_s
            self._log.warning("%s is back after %.0f s", self._what, away_s)
