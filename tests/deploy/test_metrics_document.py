"""docs/METRICS.md is what the code says, and says all of it."""

from __future__ import annotations

from orion_streams.model.metric_specs import METRICS
from tests.grids import fails
from tests.metrics_reference import DOCUMENT, document


def is_whole(text: str) -> None:
    """Each metric has a row with its meaning and its labels; each histogram its buckets."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for spec in METRICS:
        labels = " ".join(f"`{label}`" for label in spec.labels)
        assert f"| `{spec.name}` | {labels} | {spec.what} |" in rows
        assert spec.what.endswith(".")
        if spec.bounds:
            assert any(row.startswith(f"| `{spec.name}` | {spec.bounds[0] / spec.per:g} ") for row in rows)


def test_the_document_is_what_the_generator_writes() -> None:
    """Letter by letter, and all metrics stand there."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == document(), "write it anew: python -m tests.metrics_reference"
    is_whole(text)


def test_a_metric_without_a_row_would_be_seen() -> None:
    """The control: with one row less."""
    text = document()
    row = next(line for line in text.splitlines() if line.startswith("| `orion_queue_depth` |"))
    assert fails(is_whole, text.replace(row, ""))
