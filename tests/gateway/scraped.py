"""What a scrape says, as Prometheus reads it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.gateway_stage import Stage


class Scraped:
    """A scrape: `kinds` by the family's name, `values` by sample and labels, `labels` by sample."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.kinds: dict[str, str] = {}
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.labels: dict[str, set[str]] = defaultdict(set)
        for family in text_string_to_metric_families(text):
            assert family.documentation, family.name
            self.kinds[family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.values, f"twice: {key}"
                self.values[key] = sample.value
                self.labels[sample.name] |= set(sample.labels)

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one sample; None if it is not there."""
        return self.values.get((name, frozenset(labels.items())))

    def total(self, name: str, **labels: str) -> float:
        """The sum over the samples that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, row), value in self.values.items() if found == name and wanted <= row)


async def scrape(stage: Stage, **options: Any) -> Scraped:
    """Ask a running gateway."""
    async with stage.http.get(f"{stage.url}/metrics", **options) as answer:
        assert answer.status == 200, await answer.text()
        return Scraped(await answer.text())
