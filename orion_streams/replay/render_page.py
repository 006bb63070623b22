"""Render an incident as one HTML page that needs no network and no other file.

Names and ids are untrusted: they are embedded as JSON in which no tag can begin, and the script shows them
as text. The page's Content-Security-Policy allows only these scripts and this style, by their hashes.

What lies in SHARED is served by the gateway as well, to its page: there they are modules, here one script.
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
SHARED = PAGE / "shared"
SCRIPTS = (
    *(f"shared/{path.name}" for path in sorted(SHARED.glob("*.js"))),
    "data.js",
    "tooltip.js",
    "charts.js",
    "lanes.js",
    "findings.js",
    "requests.js",
    "page.js",
)
MODULE_WORDS = re.compile(r"^(?:import .*\n|export )", re.MULTILINE)
PLACE = re.compile(r"\{\{(\w+)\}\}")


def render(incident: Incident) -> str:
    """Render the whole page."""
    style = text(UPLOT / "uPlot.min.css") + text(SHARED / "base.css") + text(PAGE / "page.css")
    licence = f"/*\nuPlot is used under this licence.\n\n{text(UPLOT / 'LICENSE')}\n*/\n"
    library = licence + text(UPLOT / "uPlot.iife.min.js")
    script = '"use strict";\n' + "\n".join(MODULE_WORDS.sub("", text(PAGE / name)) for name in SCRIPTS)
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
    """Read one of the page's files."""
    return path.read_text(encoding="utf-8")


def source(code: str) -> str:
    """Return the source of an inline script or style for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def embedded(data: object) -> str:
    """Encode as JSON for a script element: no tag and no comment begins in it."""
    return msgspec.json.encode(data).decode().replace("<", "\\u003c")
