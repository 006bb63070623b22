"""docs/CONTRACT.md is what the structs say, and says all of it."""

import msgspec
import pytest

from orion_streams.protocol import replies, requests_replies
from tests.contract.contract_document import DOCUMENT, document


def test_the_document_is_what_the_generator_writes() -> None:
    """docs/CONTRACT.md is the generator's output, letter by letter."""
    assert DOCUMENT.read_text(encoding="utf-8") == document(), (
        "write it anew: python -m tests.contract.contract_document"
    )


@pytest.mark.parametrize("struct", [requests_replies.RequestEntry, requests_replies.Message, replies.Reply])
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
    assert all(f"| `{kind}` | {meaning} |" in text for kind, meaning in replies.TERMINAL_KINDS.items())
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    explained = {row[1].strip(" `"): row[-2].strip() for row in rows if len(row) == 6}
    assert all(explained[code] for code in requests_replies.CODES)
