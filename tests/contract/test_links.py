"""What the documents point to is there: files, pictures, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def broken(document: Path) -> Iterator[str]:
    """Yield the links of a document that lead nowhere; those that leave the project are not followed."""
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        there = document.parent / path if path else document
        if not there.exists() or (anchor and anchor not in anchors(there)):
            yield target


def anchors(document: Path) -> set[str]:
    """Return how the headings of a document are addressed."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each link of a document has its file, and its heading there."""
    assert list(broken(document)) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    """Negative control: a missing file, a missing heading; not one that leaves the project."""
    document = tmp_path / "a.md"
    document.write_text(
        "# One two\n[a](b.md) [a](#one-two) [a](#three) [a](a.md#one-two) [a](https://x.example)\n"
    )
    assert list(broken(document)) == ["b.md", "#three"]


def test_every_picture_is_shown() -> None:
    """No picture lies in docs/pictures for nobody."""
    shown = "".join(each.read_text(encoding="utf-8") for each in DOCUMENTS)
    assert [each.name for each in (ROOT / "docs" / "pictures").iterdir() if each.name not in shown] == []
