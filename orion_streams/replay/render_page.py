"""An incident as one HTML page that needs nothing else: no network, no other file.

Names and ids come from outside: they go into the page as JSON only, in which no tag can begin, and the
page's script shows them as text. The page's policy allows this script and this style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import msgspec

from orion_streams.replay.incident import Incident
from orion_streams.replay.page_data import pack

PAGE = Path(__file__).with_name("page")
UPLOT = PAGE / "vendor" / "uplot"
SCRIPTS = ("format.js", "data.js", "tooltip.js", "charts.js", "lanes.js", "findings.js", "page.js")
PLACE = re.compile(r"\{\{(\w+)\}\}")


def render(incident: Incident) -> str:
    """The whole page."""
    style = text(UPLOT / "uPlot.min.css") + text(PAGE / "page.css")
    licence = f"/*\nuPlot is used under this licence.\n\n{text(UPLOT / 'LICENSE')}\n*/\n"
    library = licence + text(UPLOT / "uPlot.iife.min.js")
    script = "\n".join(text(PAGE / name) for name in SCRIPTS)
    parts = {
        "policy": (
            f"default-src 'none'; script-src {source(library)} {source(script)}; "
            f"style-src {source(style)}; img-src data:; base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "library": library,
        "script": script,
        "data": embedded(pack(incident)),
    }
    return PLACE.sub(lambda place: parts[place[1]], text(PAGE / "template.html"))


def text(path: Path) -> str:
    """One of the page's files."""
    return path.read_text(encoding="utf-8")


def source(code: str) -> str:
    """Names an inline script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def embedded(data: object) -> str:
    """JSON that can stand in a script element: no tag and no comment begins in it."""
    return msgspec.json.encode(data).decode().replace("<", "\\u003c")
