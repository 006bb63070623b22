"""ARCHITECTURE.md says what the code does, and the tree is as it says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from orion_streams.model import events as ev
from orion_streams.projections import FOLDS
from tests.architecture_tables import DOCUMENT, tables, written

ROOT = DOCUMENT.parent
TEXT = DOCUMENT.read_text(encoding="utf-8")
FOLDERS = ("orion_streams", "agents", "projections", "tests")
SHARED_NAMES = {"__init__.py", "__main__.py", "conftest.py"}
"""What Python and pytest want to be called so."""


def python_files() -> list[Path]:
    """All files of the checkout, each once: the two symlinks are not followed."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("name", tables())
def test_each_table_of_states_is_the_one_that_the_code_obeys(name: str) -> None:
    """`python -m tests.architecture_tables` writes them anew."""
    assert f"<!-- table: {name} -->\n{tables()[name]}\n<!-- end -->" in TEXT
    assert written(TEXT) == TEXT


def test_a_table_that_is_out_of_date_would_be_seen() -> None:
    """The control: with one state changed, the document is not what would be written."""
    assert written(TEXT.replace("| request.routed | waiting |", "| request.routed | running |")) == TEXT
    assert "| request.routed | waiting |" in TEXT


def test_every_package_stands_in_the_code_map() -> None:
    """Each folder with code, by its path; and no folder that is not there."""
    folders = {str(path.parent.relative_to(ROOT)) + "/" for path in python_files()}
    product = {folder for folder in folders if not folder.startswith("tests/")}
    assert set(re.findall(r"^\| `([\w/]+/)`", TEXT, re.MULTILINE)) == product | {"tests/"}


def test_every_event_has_its_folds() -> None:
    """An event that no table names would stop the router."""
    assert {*FOLDS, ev.Committed} == set(get_args(ev.AnyEvent))


def test_basenames_are_unique() -> None:
    """A file is found by its name alone."""
    names = Counter(path.name for path in python_files() if path.name not in SHARED_NAMES)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_glossary_explains_the_words_of_the_field() -> None:
    """Each in one row, in the order of the alphabet."""
    glossary = TEXT.partition("## Glossary")[2].partition("\n## ")[0]
    words = re.findall(r"^\| \*\*([\w ]+)\*\* \|", glossary, re.MULTILINE)
    assert words == sorted(words)
    assert {"attempt", "assignment", "commit", "decision", "fence", "fold", "guard", "position"} <= set(
        words
    )
    assert len(words) >= 20
