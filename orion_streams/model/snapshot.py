"""A grid as bytes, with the number of their shape.

A snapshot outlives the code that wrote it: the log before it may be trimmed, so it cannot be made anew.
Shape 1 (a bare map, without a number) is converted; a shape that this version does not know is refused by
its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from orion_streams.errors import LogError
from orion_streams.model.state import FootprintKey, Grid

SHAPE = 2
_encoder = msgspec.msgpack.Encoder()
_shaped: msgspec.msgpack.Decoder[tuple[int, msgspec.Raw]] = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_decoder = msgspec.msgpack.Decoder(Grid)
_PAIR = b"\x92"
"""How a MessagePack array of two begins; shape 1 begins with a map."""


def encode_grid(grid: Grid) -> bytes:
    """Return the grid as bytes: the same history gives the same bytes, on any machine. Tables keep the
    order of their insertion, which is part of the history (the oldest closed request is forgotten
    first)."""
    return _encoder.encode((SHAPE, grid))


def decode_grid(raw: bytes) -> Grid:
    """Return a grid from its bytes. Raises msgspec.DecodeError when they are none, LogError for an
    unknown shape."""
    try:
        if not raw.startswith(_PAIR):
            return grid_of_shape_1(msgspec.msgpack.decode(raw))
        shape, grid = _shaped.decode(raw)
        if shape != SHAPE:
            raise LogError(
                f"the snapshot has shape {shape}, and this version reads 1 to {SHAPE}: use a newer one"
            )
        return _decoder.decode(grid)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def grid_of_shape_1(old: Any) -> Grid:
    """Convert a grid whose assignments were one type, whose marks were words in a string, and whose
    keys were joined with spaces. Raises msgspec.ValidationError when it is none."""
    if not isinstance(old, Mapping) or not isinstance(old.get("nodes"), Mapping):
        raise msgspec.ValidationError("expected a grid")
    try:
        return msgspec.convert(
            {
                **old,
                "nodes": {name: node_of_shape_1(row) for name, row in old["nodes"].items()},
                "speeds": {tuple(key.split(" ", 1)): row for key, row in old.get("speeds", {}).items()},
                "footprints": footprints_of_shape_1(old.get("footprints", {})),
            },
            Grid,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise msgspec.ValidationError(f"a grid of shape 1 that cannot be converted: {error}") from error


def node_of_shape_1(old: dict[str, Any]) -> dict[str, Any]:
    """Convert a node's row: a held item without a request was an ordered load."""
    held = {
        work_id: {"type": "run" if row["request"] else "load", **row}
        for work_id, row in old.pop("holdings", {}).items()
    }
    return {**old, "assignments": held, "backed_off": old.get("backed_off", "").split()}


def footprints_of_shape_1(old: dict[str, int]) -> dict[FootprintKey, int]:
    """Convert keys "digest num_ctx slots"; an older key without slots is measured again."""
    keys = {key: key.rsplit(" ", 2) for key in old}
    return {(each[0], int(each[1]), int(each[2])): old[key] for key, each in keys.items() if len(each) == 3}
