"""`orion replay`: every decision in the log, recomputed."""

from __future__ import annotations

import sys

import msgspec

from orion_streams.cli import where
from orion_streams.cli.outcome import tell
from orion_streams.cli.reads import look, opened
from orion_streams.errors import EXIT_DIVERGED, EXIT_OK
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import Report, verify


async def run(as_json: bool, redis_url: str | None, config_path: str | None) -> int:
    """Verify the log. Exit 4 when a recorded decision is not the recomputed one. Raises LogError."""
    config = where.find(redis_url, config_path)
    async with opened(config) as store:
        await look(store)  # says what to do about a log that is empty
        report = await verify(LiveSource(store, config.prefix))
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        show(report)
    return EXIT_DIVERGED if report.diverged else EXIT_OK


def show(report: Report) -> None:
    """The outcome for a person."""
    sys.stdout.write(
        f"{report.decisions} decisions recomputed from {report.events} events: "
        f"{report.diverged or 'none'} differ\n"
    )
    if report.older:
        tell(f"{report.older} decisions were made by another version of the code: folded, not judged")
    first = report.first_divergence
    if first is not None:
        tell(f"first at position {first.position}")
        tell(f"  recorded   {first.recorded or 'nothing'}")
        tell(f"  recomputed {first.recomputed or 'nothing'}")
