"""How long things last: the one place where the chaos tests let time pass."""

from __future__ import annotations

import asyncio


async def lasts(seconds: float) -> None:
    """Let a fault, or the pause until a client or the chaos does its next thing, last so long. It is what
    the run is made of, as drawn from its seed: there is no condition to wait for."""
    await asyncio.sleep(seconds)
