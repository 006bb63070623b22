"""`orion log tail --file`: the last events of a file."""

from __future__ import annotations

import sys
from collections import deque

from orion_streams.cli import log_sources
from orion_streams.cli.log_view import Line, as_data, as_text
from orion_streams.cli.options import CommonOptions
from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import decoded
from orion_streams.model import events as ev
from orion_streams.replay.source import FileSource


async def run(*, file: str, count: int, common: CommonOptions) -> int:
    """Print the last events of a file. Raises ConfigError, LogError."""
    found: deque[tuple[int, int, bytes]] = deque(maxlen=count)
    server_ms = 0
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        assert isinstance(log, FileSource)  # noqa: S101 - by the name of a file
        for stretch in log.read(checked=True):
            for position, raw in stretch.rows:
                if is_head(raw):
                    head = decoded(position, raw)
                    server_ms = head.server_ms if isinstance(head, ev.Committed) else server_ms
                found.append((position, server_ms, raw))
    for position, server_ms, raw in found:
        line = Line(position, server_ms, decoded(position, raw))
        sys.stdout.write((as_data(line) if common.as_json else as_text(line, sys.stdout.isatty())) + "\n")
    return 0
