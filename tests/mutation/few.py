"""A pytest plugin for .ci/mutants: Hypothesis with few examples, always the same ones, and no shrinking.

Thousands of runs have to be short and have to repeat themselves; whoever wants the smallest example of a
failure runs the suite as it is.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

EXAMPLES, STEPS = 25, 20
USED = "_hypothesis_internal_use_settings"
"""Where @settings leaves them on a test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every property, the state machines among them, gets by with less."""
    for item in items:
        test: Any = getattr(item, "obj", None)
        case: Any = getattr(item, "cls", None)
        if isinstance(getattr(case, "settings", None), settings):
            case.settings = few(case.settings)
        elif isinstance(getattr(test, USED, None), settings):
            setattr(getattr(test, "__func__", test), USED, few(getattr(test, USED)))


def few(usual: settings) -> settings:
    """These settings with fewer examples, which a hash of the test chooses."""
    return settings(
        usual,
        max_examples=min(usual.max_examples, EXAMPLES),
        stateful_step_count=min(usual.stateful_step_count, STEPS),
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
