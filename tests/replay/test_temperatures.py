"""How a machine warms up and cools down, found again from its temperatures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from orion_streams.simulation.machine_spec import NodeSpec
from orion_streams.simulation.rerun.recorded_heat import Heat, Point, fit
from orion_streams.simulation.thermal_model import Thermals
from orion_streams.simulation.virtual_house import along


def course(
    ambient: list[int], rise_mc: int, tau_s: float, load: Iterator[float] | None = None
) -> list[Point]:
    """Temperatures every 5 s of a machine that works every other two minutes, ten minutes per ambient."""
    thermals = Thermals(NodeSpec(ambient_mc=ambient[0], heat_mc=rise_mc, tau_s=tau_s))
    points, before = [Point(0, 0, round(thermals.temp_mc), 0.0)], 0.0
    for n in range(1, 120 * len(ambient)):
        thermals.ambient_mc = ambient[n // 120]
        before = next(load) if load is not None else float(n // 24 % 2)
        thermals.pass_time(5_000, before)
        points.append(Point(n * 5_000, 5_000, round(thermals.temp_mc / 100) * 100, before))
    return points


def test_a_curve_is_found_again() -> None:
    """Ambient, rise and time constant of a machine, from temperatures to a tenth of a degree."""
    found = fit(course([40_000, 40_000], 30_000, 120.0))
    assert found.fitted and abs(found.ambient_mc - 40_000) < 500 and abs(found.rise_mc - 30_000) < 1_000
    assert 100 < found.tau_s < 140 and found.error_mc < 300


def test_an_afternoon_is_found_again() -> None:
    """The air may grow warmer: each ten minutes have an ambient of their own."""
    found = fit(course([30_000, 30_000, 42_000, 42_000, 42_000], 30_000, 60.0))
    assert found.fitted
    assert abs(along(found.ambient, 0) - 30_000) < 1_000
    assert abs(along(found.ambient, 2_700_000) - 42_000) < 1_000


@pytest.mark.parametrize(
    "points",
    [
        course([40_000], 30_000, 120.0)[:50],
        course([40_000, 40_000], 30_000, 120.0, iter([1.0] * 500)),
        course([40_000, 40_000], 30_000, 120.0, iter([0.0] * 500)),
        course([40_000, 40_000], -20_000, 120.0),
        course([40_000, 40_000], 30_000, 12.0),
        [
            replace(each, temp_mc=each.temp_mc + 9_000 * (-1) ** n)
            for n, each in enumerate(course([40_000] * 4, 30_000, 120.0))
        ],
        [
            replace(each, temp_mc=40_000 + 15_000 * (n * 7 % 3))
            for n, each in enumerate(course([0, 0], 1, 9.0))
        ],
    ],
    ids=["too few", "always busy", "never busy", "colder under load", "at once", "too rough", "no curve"],
)
def test_what_cannot_be_fitted_is_said(points: list[Point]) -> None:
    """Then the simulator's usual values stand there, and `fitted` is false."""
    assert fit(points) == Heat(points=len(points))


def test_a_course_is_a_line_between_its_points() -> None:
    """And constant outside them."""
    assert [along(((10, 0), (20, 100)), at_ms) for at_ms in (0, 10, 15, 20, 99)] == [0, 0, 50, 100, 100]
    assert along(((5, 7),), 0) == 7
