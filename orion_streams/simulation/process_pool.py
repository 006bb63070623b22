"""Run independent work on every core."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


def spread(run: Callable[[Work], Outcome], work: Sequence[Work], processes: int = 0) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the work; run on every core (0), or in `processes`."""
    count = min(processes or os.cpu_count() or 1, len(work))
    if count <= 1:
        yield from map(run, work)
        return
    # spawn: a fork of a process with threads (a progress bar has one) may hang
    with multiprocessing.get_context("spawn").Pool(count, leave_interrupts_to_parent) as pool:
        yield from pool.imap(run, work)


def leave_interrupts_to_parent() -> None:
    """Ignore SIGINT: Ctrl-C ends the parent, which ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
