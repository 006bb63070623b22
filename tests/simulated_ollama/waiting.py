"""Waiting in tests: for a condition, never for a time."""

from collections.abc import Awaitable, Callable

import anyio

_POLL_S = 0.01


async def eventually(holds: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 5.0) -> None:
    """Returns as soon as `holds` is true; fails with `what` when it is not in time."""
    with anyio.move_on_after(within_s):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in a server
            await anyio.sleep(_POLL_S)
        return
    raise AssertionError(f"not within {within_s} s: {what}")
