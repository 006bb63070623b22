"""docs/OPERATIONS.md has every finding of the doctor and every kind of alert."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from orion_streams.cli import doctor
from orion_streams.cli.doctor.doctor_command import diagnose
from orion_streams.cli.doctor.node_findings import OTHERS, THROTTLED
from tests.cli.doctor_facts import healthy
from tests.cli.operations_reference import ALERTS, CASES, DOCUMENT, KINDS, MEANS, document, finding_of

FOLDER = Path(str(doctor.__file__)).parent
Place = tuple[str, int]
"""(file, line) of a call that makes a finding."""


def test_the_document_is_up_to_date() -> None:
    """`python -m tests.cli.operations_reference` writes it anew."""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_each_finding_and_each_alert_is_explained() -> None:
    """What it means stands there, of nothing else, and each case brings its finding about."""
    assert MEANS.keys() == CASES.keys()
    assert ALERTS.keys() == set(KINDS)
    assert all(finding_of(name).what for name in CASES)


def places() -> Iterator[Place]:
    """Where the doctor's code makes a finding."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                yield path.name, node.lineno


def reached(cases: list[str]) -> set[Place]:
    """The lines of the doctor that these cases run."""
    found: set[Place] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.parent != FOLDER:
            return None
        found.add((path.name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for name in cases:
            facts = healthy()
            CASES[name][0](facts)
            diagnose(facts)
    finally:
        sys.settrace(before)
    return found


def test_no_finding_is_missing() -> None:
    """Each place of the code that makes one is brought about by a case of the document."""
    assert sorted(set(places()) - reached(list(CASES))) == []


def test_each_fault_of_a_table_is_there() -> None:
    """Those that the code has as rows and bits, not as places of their own."""
    said = " ".join(finding_of(name).what for name in CASES)
    assert [what for what, _ in OTHERS.values() if what not in said] == []
    assert [what for what in THROTTLED.values() if what not in said] == []


@pytest.mark.parametrize("left_out", ["away", "bgsave", "crowded", "no sender", "quiet"])
def test_a_finding_that_is_missing_would_be_seen(left_out: str) -> None:
    """Control: without its case, its place is not reached."""
    assert set(places()) - reached([name for name in CASES if name != left_out]) != set()
