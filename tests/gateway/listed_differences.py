"""Differences from what was recorded, as tables with the reason of each; and recordings that were
altered."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tests.simulated_ollama.recorded_contract import BodyLine, Exchange

Row = tuple[str, str, str]
"""The exchange's name and the place of a field, as patterns, and why it is not as recorded."""


def unlisted(table: Sequence[Row], exchange: Exchange, found: Mapping[str, Any]) -> dict[str, Any]:
    """The differences, by place, that no row of the table explains."""
    places = [place for name, place, _ in table if re.fullmatch(name, exchange.name)]
    return {at: pair for at, pair in found.items() if not any(re.fullmatch(each, at) for each in places)}


def explained(row: Row, exchange: Exchange, found: Mapping[str, Any]) -> list[str]:
    """The places of differences that this row explains."""
    name, place, _ = row
    return [at for at in found if re.fullmatch(name, exchange.name) and re.fullmatch(place, at)]


def altered(exchange: Exchange, old: str, new: str) -> Exchange:
    """The exchange with another text in its answer, which is to be found out."""
    text = exchange.text.replace(old, new)
    assert text != exchange.text
    return msgspec.structs.replace(exchange, body=[BodyLine(0, text)])
