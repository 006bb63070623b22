"""docs/CONTRACT.md is what the structs say, and says all of it."""

from pathlib import Path

import msgspec
import pytest

from orion_streams.protocol import requests_replies
from tests.contract.contract_document import WHAT_TO_DO, document, main

DOCUMENT = Path(__file__).parents[2] / "docs" / "CONTRACT.md"


def test_the_document_is_what_the_generator_writes() -> None:
    """docs/CONTRACT.md is the generator's output, letter by letter."""
    assert DOCUMENT.read_text(encoding="utf-8") == document(), (
        "write it anew: python -m orion_streams.contract_docs > docs/CONTRACT.md"
    )


@pytest.mark.parametrize(
    "struct", [requests_replies.RequestEntry, requests_replies.Message, requests_replies.Reply]
)
def test_every_field_has_a_row_with_its_meaning(struct: type[msgspec.Struct]) -> None:
    """Each field of a request, a message and a reply stands in a table, and its meaning is not empty."""
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    for name in struct.__struct_fields__:
        mine = [row for row in rows if row.startswith(f"| `{name}` |")]
        assert mine, name
        assert all(row.split("|")[-2].strip() for row in mine), name


def test_every_kind_and_code_is_explained() -> None:
    """Each terminal kind and each code stands in the document, each code with what to do about it."""
    text = document()
    assert all(
        f"| `{kind}` | {meaning} |" in text for kind, meaning in requests_replies.TERMINAL_KINDS.items()
    )
    assert all(f"| `{code}` |" in text for code in requests_replies.CODES)
    assert WHAT_TO_DO.keys() == requests_replies.CODES.keys()


def test_the_check_tells_an_old_file_from_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check exits 0 for the current document, and 1 with the command that mends it for any other."""
    path = tmp_path / "CONTRACT.md"
    assert main(["--check", str(path)]) == 1
    path.write_text(document(), encoding="utf-8")
    assert main(["--check", str(path)]) == 0
    path.write_text(document() + "more", encoding="utf-8")
    assert main(["--check", str(path)]) == 1
    assert "python -m orion_streams.contract_docs" in capsys.readouterr().err
    assert main([]) == 0
    assert capsys.readouterr().out == document()
