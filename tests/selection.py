"""Which tests run (a quick selection, or everything), and how to see a failure again: a pytest plugin."""

from __future__ import annotations

import os
import random
import shlex
import sys
import textwrap
from collections.abc import Generator
from typing import Any

import pytest

from orion_streams.errors import EXIT_BAD_CONFIG
from tests import needs

WIDTH = 160
SHOWN = 3
"""Failures in the last ten lines, at three lines each; one more line says how many others there are."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --all."""
    parser.addoption("--all", action="store_true", help="everything, also what takes long or other servers")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse --all where something is missing; give all of the run's properties one seed. Bytecode is kept:
    hundreds of processes import the same modules."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if hasattr(config, "workerinput"):
        return
    if config.option.all and (packages := needs.missing()):
        pytest.exit(f"--all needs more: sudo apt install {' '.join(packages)}", EXIT_BAD_CONFIG)
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is left out."""
    if not config.option.all:
        return ["a quick selection; everything: ./orion test --all"]
    return [f"left out: {each}" for each in needs.left_out()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not asked for."""
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        chosen[is_wanted(item, config)].append(item)
    if chosen[False]:
        config.hook.pytest_deselected(items=chosen[False])
        items[:] = chosen[True]


def is_wanted(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether a test is quick, or --all was said, or its name; and it can run here."""
    marks = list(item.iter_markers("everything"))
    asked = config.option.all or any("::" in word for word in config.args)
    return not marks or (asked and all(all(mark.args) and mark.kwargs.get("where", True) for mark in marks))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Give a test's report its docstring, and whether Hypothesis chose its examples. A skip fails: what
    cannot run here is marked `everything`."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    report.promise = " ".join(str(getattr(getattr(item, "obj", None), "__doc__", None) or "").split())
    report.is_property = item.get_closest_marker("hypothesis") is not None
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """End with what broke and how to see it again, in ten lines at most."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None:
        return
    failed = [*reporter.stats.get("failed", ()), *reporter.stats.get("error", ())]
    for report in failed[:SHOWN]:
        for line in again(report, config):
            reporter.write_line(line)
    if len(failed) > SHOWN:
        reporter.write_line(f"and {len(failed) - SHOWN} more, listed above")


def again(report: Any, config: pytest.Config) -> list[str]:
    """What should hold, what was seen, and the command that shows it again."""
    crash = getattr(report.longrepr, "reprcrash", None)
    seen = (getattr(crash, "message", "") or str(report.longrepr).strip().rpartition("\n")[2]).partition(
        "\n"
    )[0]
    words = ["./orion", "test", report.nodeid]
    if config.option.all:
        words.append("--all")
    if getattr(report, "is_property", False):
        words.append(f"--hypothesis-seed={config.option.hypothesis_seed}")
    said = (f"broken: {getattr(report, 'promise', '')}", f"seen: {seen}")
    return [*(textwrap.shorten(line, WIDTH) for line in said), shlex.join(words)]
