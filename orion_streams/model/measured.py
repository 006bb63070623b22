"""What was measured, as structs that travel: their fields stand in entries, events and replies beside
others."""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Self

from msgspec import Meta, Struct, structs


class Measured(Struct, frozen=True):
    """Base of structs whose fields stand, in this order, in larger structs."""

    @classmethod
    def of(cls, flat: Any) -> Self:
        """Take the fields by name from a struct that has them beside others."""
        return cls(*fields_of(cls)(flat))

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, as keyword arguments of such a struct."""
        return structs.asdict(self)


@cache
def fields_of(kind: type[Measured]) -> attrgetter[tuple[Any, ...]]:
    """Return what reads the fields of such a struct, in order, from a larger one."""
    return attrgetter(*kind.__struct_fields__)


class Usage(Measured, frozen=True):
    """What an answer took, as its node measured it: from Ollama's last chunk to the client's reply.

    Durations in ms; zero and "" where nothing was measured. `first_token_ms`: from the begin of the run to
    the first piece of the answer, thoughts included.
    """

    tokens: int = 0
    prompt_tokens: int = 0
    load_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    total_ms: int = 0
    done_reason: str = ""
    first_token_ms: int = 0


class Sample(Measured, frozen=True):
    """One look at a machine, from the sensors to the table: milli-degrees Celsius (None without a
    sensor), MiB, thousandths of all cores, and in `throttled` the bits of `vcgencmd get_throttled`."""

    temp_mc: int | None
    ram_used_mb: int
    ram_total_mb: Annotated[int, Meta(ge=1)]
    cpu_permille: int
    throttled: int = 0
