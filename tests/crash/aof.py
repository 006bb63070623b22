"""The append-only file of a server, cut where a dying disk or machine may cut it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from orion_streams.runtime.embedded_server import EmbeddedServer

FOLDER, PART = "appendonlydir", "*.incr.aof"


def file_of(data_dir: Path) -> Path:
    """Find the part that the server appends to."""
    [path] = (data_dir / FOLDER).glob(PART)
    return path


def command_ends(raw: bytes) -> list[int]:
    """Return where each command of an append-only file ends. Its bytes are RESP: *parts, then $length and
    bytes for each."""
    ends, at = [], 0
    while at < len(raw):
        parts, at = number_after(raw, at, b"*")
        for _ in range(parts):
            length, at = number_after(raw, at, b"$")
            at += length + 2
        ends.append(at)
    assert at == len(raw), "the last command is not whole"
    return ends


def number_after(raw: bytes, at: int, sign: bytes) -> tuple[int, int]:
    """Return the number of a RESP line, and where the next line begins."""
    assert raw[at : at + 1] == sign, f"no {sign!r} at byte {at}: {raw[at : at + 20]!r}"
    end = raw.index(b"\r\n", at)
    return int(raw[at + 1 : end]), end + 2


def copy_cut(source: Path, target: Path, at: int) -> None:
    """Copy a server's data with its file cut at byte `at`."""
    shutil.copytree(source / FOLDER, target / FOLDER)
    os.truncate(file_of(target), at)


class Own:
    """A server of one life; every write is on the disk before its answer."""

    def __init__(self, data_dir: Path, binary: Path | None) -> None:
        self.data_dir = data_dir
        self._server = EmbeddedServer(data_dir, fsync="always", binary=binary)

    @property
    def url(self) -> str:
        return self._server.url

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def remove(self) -> None:
        """Stop it, and leave nothing on the disk: there are thousands."""
        await self.stop()
        shutil.rmtree(self.data_dir)

    async def lose(self, at: Callable[[bytes], int]) -> None:
        """kill -9, cut its file at the byte that `at` names, and start it again at the same place."""
        await asyncio.to_thread(self._server.kill)
        path = file_of(self.data_dir)
        os.truncate(path, at(path.read_bytes()))
        await self.start()
