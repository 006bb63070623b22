"""What completions teach about a model on a node. Integer moving averages: no float takes part.

A load is learned only where the model was not resident and nothing else ran on the node: otherwise the
measured load contains a wait (a warm answer's is never 0 either).
"""

from __future__ import annotations

from orion_streams import events as ev
from orion_streams.state import Grid, Speed


def completed(grid: Grid, event: ev.RequestCompleted) -> None:
    """Fold one answer's durations into the speeds of (node, model) and the model's mean length."""
    request = grid.open.get(event.request)
    if request is None:
        return
    key = f"{event.node} {request.model}"
    known = grid.speeds.get(key, Speed())
    load_ms, prefill_us, decode_us = (
        known.load_ms,
        known.prefill_us_per_token,
        known.decode_us_per_token,
    )
    if event.cold and event.alone and event.load_ms > 0:
        load_ms = average(load_ms, event.load_ms)
    if event.prompt_tokens > 0 and event.prefill_ms > 0:
        prefill_us = average(prefill_us, event.prefill_ms * 1000 // event.prompt_tokens)
    if event.tokens > 1 and event.decode_ms > 0:
        decode_us = average(decode_us, event.decode_ms * 1000 // event.tokens)
    grid.speeds[key] = Speed(load_ms, prefill_us, decode_us)
    if event.tokens > 0:
        grid.lengths[request.model] = average(grid.lengths.get(request.model, 0), event.tokens)


def average(known: int, measured: int) -> int:
    """Move a quarter of the way to the new measurement; the first one counts whole."""
    return measured if known == 0 else (3 * known + measured) // 4
