"""Take the picture of the incident report: `python -m tests.replay.pictures_report docs/pictures`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.incident import collect
from orion_streams.replay.render_page import render
from tests.browser import browser
from tests.replay.decided import chained, chunks, simulated

CLIENTS = ("open-webui", "homeassistant", "notes")
NAME = "report.png"
WIDTH, HEIGHT = 1120, 920
MAX_BYTES = 200_000


def named(events: Iterable[ev.AnyEvent]) -> list[ev.AnyEvent]:
    """The events of a simulated run with its requests shared among several clients."""
    found = []
    for event in events:
        request = getattr(event, "request", "")
        if request:
            number = int(request.partition("/")[2])
            event = replace(event, request=f"{CLIENTS[number * 7 % 10 % 3]}/{number}")  # noqa: PLW2901
        found.append(event)
    return found


def page_of_an_afternoon() -> str:
    """The report of a busy, hot afternoon of three simulated machines."""
    rows = chained(named(simulated("load-heavy", "hot-afternoon", 160).events))
    incident = collect(LoggedGrid(Grid()), chunks(rows, 500), "hot-afternoon.jsonl.gz")
    return render(replace(incident, simulated=("orion-edge", "orion-master", "orion-worker")))


async def take(folder: Path) -> Path:
    """Write the picture into the folder; AssertionError if it is too large for the documents."""
    target = folder / NAME
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        path = Path(scratch) / "hot-afternoon.html"
        path.write_text(page_of_an_afternoon(), encoding="utf-8")
        async with browser(Path(scratch) / "profile") as page:
            await page.call("Emulation.setTimezoneOverride", timezoneId="Europe/Berlin")
            await page.open(path, width=WIDTH, height=HEIGHT)
            await page.call(
                "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1,
                mobile=False,
            )  # fmt: skip
            await page.ask("document.getElementById('requests').scrollIntoView(), 1")
            await page.settled()
            picture = await page.picture()
            assert page.complaints == []
    assert len(picture) <= MAX_BYTES, f"{len(picture)} bytes"
    target.write_bytes(picture)
    return target


if __name__ == "__main__":
    print(asyncio.run(take(Path(sys.argv[1]))))
