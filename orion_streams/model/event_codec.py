"""Events as the bytes that the log holds."""

from __future__ import annotations

import msgspec

from orion_streams.model.events import AnyEvent, Event

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """Return an event as the JSON object that the log holds."""
    return _encoder.encode(event)


def decode(raw: bytes | str) -> AnyEvent:
    """Return the event of a log entry. Raises msgspec.DecodeError when it is none."""
    try:
        return _decoder.decode(raw)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
