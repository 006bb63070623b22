"""Recognise streams that were deleted while the grid runs, and describe the loss."""

from __future__ import annotations

from orion_streams.model.commit import Extent
from orion_streams.model.state import parse_stream_id

REST = {
    "requests": "what was not taken yet is lost: its client sends it again under the same id",
    "results": "what was not taken yet is lost: attempts that their node no longer has are tried again",
    "health": "nothing else is lost: each entry is complete",
    "replies": "what nobody had read is lost: who misses an answer asks again under a new id",
}


def was_deleted(before: Extent, now: Extent) -> bool:
    """Whether a stream was deleted, not just trimmed, since its extent was `before`: ids or the count of
    added entries fell, or all old entries are gone though fewer were ever removed."""
    if now.added < before.added or parse_stream_id(now.top) < parse_stream_id(before.top):
        return True
    none_left = parse_stream_id(now.first) > parse_stream_id(before.top)
    return none_left and now.added - now.length < before.added


def lost_stream(prefix: str, stream: str, top: str, cursor: str) -> str:
    """Describe the loss of a stream, whose last known id was `top`, for a person."""
    read = f", and was read up to {cursor}" if cursor else ""
    rest = REST[stream.partition(":")[0]]
    return f"{prefix}{stream} was deleted, or its server lost its tail. It had gone to {top}{read}; {rest}"


def lost_group(key: str, unread: int) -> str:
    """Describe the loss of a node's work stream or its group for a person."""
    return (
        f"{key} or its group was deleted and is made anew; what its agent had not read "
        f"({unread} runs or loads) is tried again"
    )
