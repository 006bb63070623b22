"""Retry with jitter while the server is away, and log an outage without flooding the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis.backoff import DecorrelatedJitterBackoff

FIRST_S, LONGEST_S = 0.1, 2.0
LOG_AGAIN_S = 60.0


def reconnect_backoff() -> DecorrelatedJitterBackoff:
    """Pauses in seconds: `compute(0)` gives a random one, up to three times the last; `reset()` starts
    over.

    redis-py's exponential backoffs overflow after 1,024 failures, half an hour of pauses. This one keeps
    the last pause instead of counting, so it ignores the argument of `compute`.
    """
    backoff = DecorrelatedJitterBackoff(cap=LONGEST_S, base=FIRST_S)
    backoff.compute(0)  # the first one is not random, and all processes come back at once
    return backoff


class OutageLog:
    """Log the first failure of any part of a process, then once a minute, and the end of the outage once
    all parts work again. `hear` is told how it is after each try."""

    def __init__(
        self,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        hear: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log, self._clock, self._hear = log, clock, hear
        self._failing: set[str] = set()
        self._what = ""
        self._began_s = self._logged_s = 0.0
        self.tries = 0

    def failed(self, part: str, message: str, what: str = "redis") -> None:
        """Count a failed try of `part`. Log `message` unless that was done for `what` in the last
        minute."""
        self._hear(message)
        now_s = self._clock()
        if not self._failing:
            self._began_s, self.tries, self._what = now_s, 0, ""
        self._failing.add(part)
        self.tries += 1
        if what == self._what and now_s - self._logged_s < LOG_AGAIN_S:
            return
        lasted_s = now_s - self._began_s
        so_far = f" (for {lasted_s:.0f} s, {self.tries} tries)" if lasted_s > 1 else ""
        self._log.warning("%s%s", message, so_far)
        self._what, self._logged_s = what, now_s

    def worked(self, part: str) -> None:
        """End the outage for `part`, and log it if no other part still fails."""
        if part in self._failing:
            self._failing.remove(part)
            if not self._failing:
                self._log.warning("%s is back after %.0f s", self._what, self._clock() - self._began_s)
        if not self._failing:
            self._hear("working")
