"""The figures of the benchmark and their goals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

Of = Literal["value", "ratio"]


class Goal(Struct, frozen=True):
    """A bound on the value or the ratio of a row."""

    of: Of
    least: float | None = None
    most: float | None = None

    def is_met(self, row: Row) -> bool:
        """Return whether the row meets the bound; a row without the figure does not."""
        measured = row.value if self.of == "value" else row.ratio
        if measured is None:
            return False
        return (self.least is None or measured >= self.least) and (
            self.most is None or measured <= self.most
        )

    def __str__(self) -> str:
        what = "ratio " if self.of == "ratio" else ""
        return f"{what}≤ {self.most:g}" if self.most is not None else f"{what}≥ {self.least:g}"


GRID_GOALS = {
    "streams_p50_ms": Goal("ratio", most=2),
    "streams_rps_16": Goal("ratio", least=0.4),
    "script_p99_ms": Goal("value", most=1),
    "photos_ping_p99_ms": Goal("value", most=5),
    "photos_command_ms": Goal("value", most=5),
    "agent_rss_mb": Goal("value", most=80),
    "agent_idle_cpu_percent": Goal("value", most=1),
    "route_us_3_nodes": Goal("value", most=12),
    "route_us_per_node_1000_warm": Goal("value", most=4),
    "route_us_per_node_1000_cold": Goal("value", most=4),
    "simulate_us_per_request": Goal("value", most=360),  # a million in six minutes
}
GATEWAY_GOALS = {
    "gateway_p50_ms": Goal("ratio", most=1),
    "gateway_rps_16": Goal("ratio", least=0.8),
    "gateway_first_token_added_ms": Goal("value", most=3),
    "gateway_streams_whole": Goal("value", least=200),
    "gateway_rss_mb": Goal("value", most=96),
    "gateway_idle_cpu_percent": Goal("value", most=1),
    "gateway_50_tabs_cpu_percent": Goal("value", most=5),
}
GOALS = GRID_GOALS | GATEWAY_GOALS


class Row(Struct, frozen=True):
    """One figure. `floor`: the same figure of the simplest implementation in the same run. `ratio`: the
    median over the rounds of value / floor, so it may differ from the quotient of the medians."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None

    @property
    def verdict(self) -> str:
        """ "pass" or "over"; empty without a goal."""
        goal = GOALS.get(self.name)
        if goal is None:
            return ""
        return "pass" if goal.is_met(self) else "over"


def compared(name: str, unit: str, rounds: Sequence[tuple[float, float]]) -> Row:
    """Make a row from rounds of (value, floor)."""
    return Row(
        name,
        tidy(median(value for value, _ in rounds)),
        unit,
        tidy(median(floor for _, floor in rounds)),
        tidy(median(value / floor for value, floor in rounds)),
    )


def tidy(number: float) -> float:
    """Round to three significant digits, more than a busy machine gives; large numbers to integers."""
    return round(number) if abs(number) >= 1000 else float(f"{number:.3g}")
