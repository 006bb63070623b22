"""The local time of this machine."""

from __future__ import annotations

import time


def local_offset_s(at_ms: int) -> int:
    """Return how far local time is ahead of UTC at a moment in ms since 1970, in seconds. Another zone of
    the machine (/etc/localtime) counts at once: `localtime` alone keeps the one it began with."""
    time.tzset()
    return time.localtime(at_ms / 1000).tm_gmtoff
