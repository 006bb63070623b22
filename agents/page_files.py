"""The page's files, as they are served: read once, known by their digest, under a strict policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web
from msgspec import Struct

import orion_streams

HOME = Path(orion_streams.__file__).parent
PAGE, REPORT = HOME / "gateway" / "page", HOME / "replay" / "page"
FOLDERS = (REPORT / "vendor" / "uplot", REPORT / "shared", PAGE)
"""The page's own files, and those that it has in common with the incident report."""
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
"""What is served; anything else in the folders is not."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageFile(Struct, frozen=True):
    """A file: its bytes, its type, and a tag that changes with it."""

    body: bytes
    content_type: str
    tag: str


class PageFiles:
    """All files by name: the page's own, and those that it shares with the report."""

    def __init__(self) -> None:
        self._files = {name: read(path) for name, path in found()}

    def answer(self, http: web.Request, name: str) -> web.Response:
        """Answer with a file; 304 to who has it. Raise HTTPNotFound."""
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        headers = {**HEADERS, "ETag": file.tag, "Content-Type": file.content_type}
        if name == INDEX:
            headers["Vary"] = "Accept"
        if file.tag in [each.strip() for each in http.headers.get("If-None-Match", "").split(",")]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers=headers)


def found() -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of all files."""
    for folder in FOLDERS:
        for path in folder.iterdir():
            if path.suffix in TYPES:
                yield path.name, path


def read(path: Path) -> PageFile:
    """Return a file with its tag."""
    body = path.read_bytes()
    return PageFile(body, TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:24]}"')
