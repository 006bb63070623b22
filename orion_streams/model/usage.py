"""Token counts and durations of one answer: one struct from Ollama's last chunk to the client's reply."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs


class Usage(Struct, frozen=True):
    """What an answer took, as the node measured it, in the order of the wire. Durations in ms; zero and ""
    where nothing was measured."""

    tokens: int = 0
    prompt_tokens: int = 0
    load_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    total_ms: int = 0
    done_reason: str = ""

    @classmethod
    def of(cls, flat: Any) -> Usage:
        """Take the fields by name from a head, event or reply, where they stand beside others."""
        return cls(*(getattr(flat, name) for name in cls.__struct_fields__))

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, as keyword arguments of such a head, event or reply."""
        return structs.asdict(self)
