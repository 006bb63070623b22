"""What a machine measured of itself: one struct from the sensors to the health entry."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, structs


class Sample(Struct, frozen=True):
    """One look at a machine: milli-degrees Celsius (None without a sensor), MiB, thousandths of all cores,
    and in `throttled` the bits of `vcgencmd get_throttled`."""

    temp_mc: int | None
    ram_used_mb: int
    ram_total_mb: Annotated[int, Meta(ge=1)]
    cpu_permille: int
    throttled: int = 0

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, as keyword arguments of an entry or event that holds them."""
        return structs.asdict(self)
